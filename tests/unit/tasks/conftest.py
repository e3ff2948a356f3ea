"""A ledger of its own for each test of tasks, at a time that the test moves, in each database."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import select

from daybook.ledger.engine import Ledger
from daybook.ledger.task_tables import TaskEventRow, TaskRunRow, TaskSessionRow
from daybook.spec import owners
from daybook.tasks import claims, queue, sessions, sweep
from daybook.testing import MovedClock
from tests import databases
from tests.databases import Database

AGENT = owners.Actor("agent:maria", via="mcp")
OTHER = owners.Actor("agent:otto", via="mcp")


class Board:
    """The queue under test, and short ways to its rows."""

    def __init__(self, ledger: Ledger, clock: MovedClock, database: Database) -> None:
        self.ledger, self.clock, self.database = ledger, clock, database

    @property
    def kind(self) -> str:
        return self.database.kind

    def now(self) -> datetime:
        return self.clock.now()

    async def task(self, title: str = "tidy up", **fields: Any) -> TaskRunRow:
        """A task, and its first run."""
        _, run = await queue.add(self.ledger, title, **fields)
        return run

    async def session(self, name: str = "one", **fields: Any) -> TaskSessionRow:
        return await sessions.register(self.ledger, name, **fields)

    async def claim(self, name: str = "one", lease: str | None = None) -> claims.Claimed:
        return await claims.claim(self.ledger, name, lease)

    async def claimed(self, name: str = "one", lease: str | None = None) -> claims.Claimed:
        """A task and a session that has claimed it."""
        await self.task()
        await self.session(name)
        return await self.claim(name, lease)

    async def sweep(self, limit: int = sweep.SWEEP_LIMIT) -> list[str]:
        """One pass; the ids of what it took back."""
        async with self.ledger.write() as session:
            return [run.id for run in await sweep.sweep(session, self.now(), limit)]

    async def run(self, run_id: str) -> TaskRunRow:
        async with self.ledger.read() as session:
            row = await session.get(TaskRunRow, run_id)
        assert row is not None
        return row

    async def runs(self) -> list[TaskRunRow]:
        async with self.ledger.read() as session:
            return list((await session.execute(select(TaskRunRow))).scalars())

    async def of(self, name: str = "one") -> TaskSessionRow:
        async with self.ledger.read() as session:
            return await sessions.find(session, name)

    async def events(self, run_id: str) -> list[TaskEventRow]:
        async with self.ledger.read() as session:
            return await queue.events(session, run_id)

    def everything(self) -> dict[str, list[tuple[Any, ...]]]:
        """All rows of all the tables of tasks, in every column."""
        tables = ("tasks", "task_runs", "task_sessions", "task_events")
        return {
            name: sorted(self.database.query(f"SELECT * FROM {name}"), key=str) for name in tables
        }


@pytest.fixture
def clock() -> MovedClock:
    """12:00:00.25 UTC, a quarter of a second after a full hour."""
    return MovedClock(MovedClock().now() + timedelta(milliseconds=250))


@pytest.fixture(params=databases.KINDS)
async def board(
    request: pytest.FixtureRequest, tmp_path: Path, clock: MovedClock
) -> AsyncIterator[Board]:
    """A ledger in each kind of database."""
    path = tmp_path / "ledger.db"
    there = databases.of_kind(request.param, path, databases.server_of(request), prepared=True)
    async with Ledger(there.address, clock) as ledger:
        yield Board(ledger, clock, there)
