"""What `up` shows, while the ledger is there and while it is not."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import AsyncAdaptedQueuePool

from daybook.ledger import claims, jobs
from daybook.ledger.engine import Ledger
from daybook.service import up
from daybook.spec.job import new_job

pytestmark = pytest.mark.anyio


class Talk:
    """An `up.UpTalk` that keeps what it is told."""

    def __init__(self) -> None:
        self.said: asyncio.Queue[str] = asyncio.Queue()
        self.outcomes: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    def say(self, line: str) -> None:
        self.said.put_nowait(line)

    def synced(self, report: dict[str, Any]) -> None:
        raise AssertionError(report)

    def ready(self, facts: dict[str, Any]) -> None:
        raise AssertionError(facts)

    def outcome(self, run: dict[str, Any]) -> None:
        self.outcomes.put_nowait(run)


async def _ended(ledger: Ledger, request: str) -> str:
    async with ledger.write() as session:
        job = new_job(now=ledger.now(), name=request, prompt="What is new?", every="1h")
        stored = await jobs.add(session, job, request, ledger.now())
    row = await claims.request(ledger, stored, request, "manual")
    await claims.cancel(ledger, row.id, "enough")
    return row.id


async def test_a_ledger_that_is_away_ends_nothing_and_what_ended_meanwhile_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(up, "LOOK", 0.01)
    address, talk = f"sqlite+aiosqlite:///{tmp_path}/ledger.db", Talk()
    async with Ledger(address) as ledger, Ledger(address) as other, AsyncExitStack() as readers:
        pool = ledger._engine.pool
        assert isinstance(pool, AsyncAdaptedQueuePool)
        pool._timeout = 0.01
        watching = asyncio.create_task(up._watch(ledger, talk, ledger.now()))
        readers.callback(watching.cancel)
        async with asyncio.timeout(30):
            first = await _ended(other, "first")
            assert (await talk.outcomes.get())["id"] == first

            async with AsyncExitStack() as taken:
                while pool.checkedout() < pool.size() + pool._max_overflow:
                    session = await taken.enter_async_context(ledger.read())
                    await session.connection()
                assert "not shown now" in await talk.said.get()
                second = await _ended(other, "second")

            assert (await talk.outcomes.get())["id"] == second
        assert await talk.said.get() == "Runs that end are shown again"
        assert talk.said.empty()
        assert not watching.done()
