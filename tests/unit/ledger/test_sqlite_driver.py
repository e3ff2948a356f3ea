"""Connections of the ledger to SQLite."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import aiosqlite
import pytest
from anyio.lowlevel import checkpoint
from sqlalchemy import text
from sqlalchemy.dialects.sqlite.aiosqlite import AsyncAdapt_aiosqlite_cursor

from daybook.ledger import sqlite
from daybook.ledger.engine import Ledger


async def steps_of_a_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return what the thread of the ledger's connection does for a read with one query."""
    steps = list[str]()
    own: Any = aiosqlite.Connection._execute

    async def recorded(connection: Any, function: Any, *given: Any, **named: Any) -> Any:
        steps.append(function.__name__)
        return await own(connection, function, *given, **named)

    async with Ledger(f"sqlite+aiosqlite:///{path}") as ledger:
        monkeypatch.setattr(aiosqlite.Connection, "_execute", recorded)
        async with ledger.read() as session:
            assert (await session.execute(text("SELECT 1"))).scalars().all() == [1]
        monkeypatch.setattr(aiosqlite.Connection, "_execute", own)
    return steps


async def test_each_statement_is_one_step_of_the_connections_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = await steps_of_a_read(tmp_path / "ledger.db", monkeypatch)
    assert steps == ["in_its_thread"] * 2 + ["rollback"] * 2  # BEGIN, the query; session, pool


async def test_with_another_version_of_the_driver_a_statement_has_its_own_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = AsyncAdapt_aiosqlite_cursor.execute

    def execute(cursor: Any, operation: Any, given: Any = None) -> Any:
        return own(cursor, operation, given)

    monkeypatch.setattr(AsyncAdapt_aiosqlite_cursor, "execute", execute)
    steps = await steps_of_a_read(tmp_path / "ledger.db", monkeypatch)
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
