"""The rehearsal of a run: it stores nothing, and a run compiles no statement after it."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select
from sqlmodel import SQLModel

from daybook.errors import LedgerUnreachable
from daybook.execution import rehearsal
from daybook.home import Home
from daybook.jobs import store
from daybook.jobs.model import new_job
from daybook.ledger import engine
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Outcome, Status
from daybook.ledger.tables import Fact, RunRow
from daybook.runs import claims
from daybook.runs.claim_requests import ClaimRequest, Granted
from tests.databases import Server, of_kind
from tests.world import World

pytestmark = pytest.mark.anyio


def prepared(folder: Path) -> str:
    """Return the address of a new ledger in ``folder``."""
    return of_kind("sqlite", folder / "ledger.db", pytest.fail, prepared=True).address


def empty(folder: Path) -> None:
    for each in folder.iterdir():
        each.unlink()


async def count_rows(ledger: Ledger) -> dict[str, int]:
    """Return the number of rows of each table that has rows."""
    async with ledger.read() as session:
        counts = {
            name: (await session.execute(select(func.count()).select_from(table))).scalar_one()
            for name, table in SQLModel.metadata.tables.items()
        }
    return {name: count for name, count in counts.items() if count}


async def test_a_rehearsal_stores_nothing(world: World) -> None:
    before = await count_rows(world.ledger)
    await rehearsal.rehearse(world.ledger)
    assert await count_rows(world.ledger) == before
    assert "runs" not in before


async def test_a_rehearsal_reaches_the_end_of_its_run(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise its later statements would not be compiled."""
    ended = list[Status]()

    async def finish(*given: Any, **named: Any) -> Status:
        ended.append(await own(*given, **named))
        return ended[-1]

    own = claims.finish
    monkeypatch.setattr(claims, "finish", finish)
    await rehearsal.rehearse(world.ledger)
    assert ended == [Status.SUCCEEDED]


async def test_a_run_after_a_rehearsal_compiles_no_statement(tmp_path: Path) -> None:
    address = prepared(tmp_path)
    await engine.warm_up(address, rehearsal.rehearse)
    async with Ledger(address) as ledger:
        cache: Any = ledger._engine.sync_engine._compiled_cache
        async with ledger.write() as session:
            job = new_job(now=ledger.now(), name="brief", prompt="Hello", on_demand=True)
            stored = await store.add(session, job, "brief", ledger.now())
        requested = await claims.request(ledger, stored, "1", "manual")
        claim = ClaimRequest(
            *(requested.occurrence, requested.kind, "manual", requested.due, "here:1"),
            parameters=job.parameters(),
            job_id=stored.id,
            flow_run_id="1",
        )
        granted = await claims.claim(ledger, claim)
        assert isinstance(granted, Granted)
        known = set(cache)
        await claims.read_grant(ledger, granted.run_id, granted.fence)
        await claims.begin(ledger, granted.run_id, granted.fence)
        outcome = Outcome(Status.SUCCEEDED, output="Hi", prompt="Hello")
        await claims.finish(ledger, granted.run_id, granted.fence, outcome)
        assert set(cache) == known
        async with ledger.read() as session:
            assert (await session.get_one(RunRow, granted.run_id)).status == "succeeded"


async def test_a_warm_ledger_is_like_a_new_one(tmp_path: Path) -> None:
    """Another file at the same path is not a replaced ledger for a process that has none open."""
    path = tmp_path / "ledger.db"
    address = f"sqlite+aiosqlite:///{path}"
    await engine.warm_up(address, rehearsal.rehearse)
    empty(tmp_path)
    async with Ledger(address) as ledger, ledger.write() as session:
        session.add(Fact(key="new", value="1"))


async def test_a_rehearsal_does_not_wait_for_a_locked_ledger(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A parent that is started again must not delay the runs that wait for it."""
    monkeypatch.setattr(rehearsal, "MAX_WAIT", timedelta(milliseconds=10))
    address = prepared(tmp_path)
    async with Ledger(address) as locking, locking.write(), Ledger(address) as ledger:
        async with asyncio.timeout(5):
            with pytest.raises(LedgerUnreachable):
                await rehearsal.rehearse(ledger)


async def test_a_shared_ledger_is_not_used_in_another_event_loop(
    daybook_home: Home, world: World
) -> None:
    """The thread of a tool may call operations of Daybook in a loop of its own."""

    async def uses_shared() -> bool:
        async with engine.open_ledger() as opened:
            return opened is world.ledger

    with engine.sharing(world.ledger):
        assert await uses_shared()
        assert not await asyncio.to_thread(lambda: asyncio.run(uses_shared()))


async def test_a_closed_ledger_is_not_shared(daybook_home: Home, tmp_path: Path) -> None:
    closed = Ledger(prepared(tmp_path))
    async with closed:
        pass
    with engine.sharing(closed):
        async with engine.open_ledger() as opened:
            assert opened is not closed


async def test_a_rehearsal_on_postgresql_stores_nothing(postgresql: Server) -> None:
    address = postgresql.prepared().address
    await engine.warm_up(address, rehearsal.rehearse)
    async with Ledger(address) as ledger:
        assert "runs" not in await count_rows(ledger)
