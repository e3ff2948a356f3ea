"""Connections of the ledger to SQLite."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiosqlite
import pytest
from anyio.lowlevel import checkpoint
from sqlalchemy import event, text
from sqlalchemy.dialects.sqlite.aiosqlite import AsyncAdapt_aiosqlite_cursor
from sqlalchemy.util import greenlet_spawn

from daybook.ledger import sqlite, sqlite_driver
from daybook.ledger.engine import Ledger
from daybook.testing import ManualClock
from tests.databases import shared_ledger


async def steps_of(
    path: Path, monkeypatch: pytest.MonkeyPatch, *, write: bool, statement: str = ""
) -> list[str]:
    """Return what the thread of the ledger's connection does for a session with one query.

    The session may execute another ``statement`` after it.
    """
    steps = list[str]()
    own: Any = aiosqlite.Connection._execute

    async def recorded(connection: Any, function: Any, *given: Any, **named: Any) -> Any:
        steps.append(function.__name__)
        return await own(connection, function, *given, **named)

    async with Ledger(f"sqlite+aiosqlite:///{path}") as ledger:
        monkeypatch.setattr(aiosqlite.Connection, "_execute", recorded)
        async with ledger.write() if write else ledger.read() as session:
            assert (await session.execute(text("SELECT 1"))).scalars().all() == [1]
            if statement:
                await session.execute(text(statement))
        monkeypatch.setattr(aiosqlite.Connection, "_execute", own)
    return steps


async def test_each_statement_of_a_reader_is_one_step_of_the_connections_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = await steps_of(tmp_path / "ledger.db", monkeypatch, write=False)
    assert steps == ["executed", "executed", "rollback"]  # BEGIN, the query


async def test_a_writer_needs_the_thread_to_wait_for_the_lock_and_for_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_driver, "MAX_STEP_SECONDS", 60.0)
    steps = await steps_of(tmp_path / "ledger.db", monkeypatch, write=True)
    assert steps == ["executed", "commit"]  # BEGIN IMMEDIATE


async def test_a_deletion_runs_in_the_thread_because_it_may_have_thousands_of_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_driver, "MAX_STEP_SECONDS", 60.0)
    steps = await steps_of(
        tmp_path / "ledger.db", monkeypatch, write=True, statement="DELETE FROM runs"
    )
    assert steps == ["executed", "executed", "commit"]  # BEGIN IMMEDIATE, DELETE


async def test_a_writer_with_many_statements_lets_other_tasks_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_driver, "MAX_STEP_SECONDS", 0.0)
    steps = await steps_of(tmp_path / "ledger.db", monkeypatch, write=True)
    # BEGIN IMMEDIATE, the check that no newer program has migrated the ledger, the query
    assert steps == ["executed", "executed", "executed", "commit"]


async def test_a_connection_whose_statement_was_cancelled_is_rolled_back(tmp_path: Path) -> None:
    """The thread may begin the transaction after the cancellation; it must not keep the lock."""
    address = f"sqlite+aiosqlite:///{tmp_path}/ledger.db"
    async with Ledger(address) as ledger, Ledger(address, busy=timedelta(seconds=5)) as other:
        async with ledger.write():  # a connection that was used before
            pass

        async def write() -> None:
            async with ledger.write():
                await asyncio.Event().wait()

        for steps in range(1, 40):  # cancel it at each of its first steps
            writing = asyncio.create_task(write())
            for _ in range(steps):
                await checkpoint()
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)
            assert await other.why_unwritable(timedelta(seconds=5)) == ""


async def test_after_a_cancelled_statement_none_runs_beside_the_connections_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_driver, "MAX_STEP_SECONDS", 60.0)
    address = f"sqlite+aiosqlite:///{tmp_path}/ledger.db"
    async with Ledger(address) as ledger, ledger.write() as session:
        raw: Any = await (await session.connection()).get_raw_connection()
        assert sqlite_driver._runs_here(raw.driver_connection)
        cursor = raw.dbapi_connection.cursor()
        deleting = asyncio.create_task(greenlet_spawn(cursor.execute, "DELETE FROM runs"))
        await checkpoint()
        deleting.cancel()
        await asyncio.gather(deleting, return_exceptions=True)
        assert deleting.cancelled()
        assert not sqlite_driver._runs_here(raw.driver_connection)


async def test_the_ledger_of_tests_closes_no_connection_whose_thread_waits() -> None:
    """Otherwise the thread crashes the test process, or both wait for each other."""
    async with shared_ledger(ManualClock()) as ledger:
        async with ledger.write():  # a connection that was used before
            pass
        with closing(sqlite3.connect(ledger.database.path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")

            async def write() -> None:
                async with ledger.write():
                    raise AssertionError("the lock is held")

            waits = asyncio.Event()

            def note(connection: Any, cursor: Any, statement: str, *given: Any) -> None:
                if statement == sqlite_driver.BEGIN_WRITING:
                    waits.set()

            engine = ledger._engine.sync_engine
            event.listen(engine, "before_cursor_execute", note)
            writing = asyncio.create_task(write())
            await waits.wait()
            event.remove(engine, "before_cursor_execute", note)
            writing.cancel()
            for _ in range(20):  # its connection is being closed
                await checkpoint()
            other.execute("ROLLBACK")
            await asyncio.gather(writing, return_exceptions=True)
            assert writing.cancelled()


async def test_with_another_version_of_the_driver_a_statement_has_its_own_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = AsyncAdapt_aiosqlite_cursor.execute

    def execute(cursor: Any, operation: Any, given: Any = None) -> Any:
        return own(cursor, operation, given)

    monkeypatch.setattr(AsyncAdapt_aiosqlite_cursor, "execute", execute)
    steps = await steps_of(tmp_path / "ledger.db", monkeypatch, write=False)
    assert steps.count("execute") == 2
    assert steps.count("fetchall") == 1


async def test_a_connection_that_is_stopped_while_it_is_closed_ends(tmp_path: Path) -> None:
    connection = await sqlite._connect(tmp_path / "a.db")
    closing = asyncio.create_task(connection.close())
    await checkpoint()  # the thread has been asked to close it
    connection.stop()
    async with asyncio.timeout(10):
        await closing
    await asyncio.to_thread(connection._thread.join, 10)
    assert not connection._thread.is_alive()
