"""Opening a ledger twice in one process, although SQLite's locks belong to the process."""

from __future__ import annotations

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import pytest
from sqlalchemy import text

from daybook.ledger import schema
from daybook.ledger.engine import Ledger
from tests import databases

pytestmark = pytest.mark.anyio

WRITE = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
connection.execute("INSERT INTO facts (key, value) VALUES ('seen', 'yes')")
connection.commit()
connection.close()
"""


async def test_closing_a_second_opening_does_not_let_another_process_delete_the_wal(
    tmp_path: Path,
) -> None:
    file = tmp_path / "ledger.db"
    address = f"sqlite+aiosqlite:///{file}"
    async with Ledger(address) as first, first.read() as session:
        # Keep one connection open while a second opening starts and ends.
        await session.execute(text("SELECT 1"))
        await session.rollback()
        async with Ledger(address):
            pass
        await anyio.run_process([sys.executable, "-c", WRITE, str(file)])
        result = await session.execute(text("SELECT value FROM facts WHERE key = 'seen'"))
        assert result.scalar_one() == "yes"
        assert (tmp_path / "ledger.db-wal").exists()


async def test_one_process_can_open_several_new_ledgers_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "upgrade", databases.migrate)
    # Alembic's migrations share one context in a process, whatever the ledger.
    ledgers = [Ledger(f"sqlite+aiosqlite:///{tmp_path}/{n}.db") for n in range(4)]
    async with AsyncExitStack() as stack:
        await asyncio.gather(*(stack.enter_async_context(each) for each in ledgers))
        assert len({each.id for each in ledgers}) == 4


def test_one_process_can_open_new_ledgers_in_several_event_loops_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "upgrade", databases.migrate)

    async def opened(number: int) -> str:
        async with Ledger(f"sqlite+aiosqlite:///{tmp_path}/{number}.db") as ledger:
            return ledger.id

    with ThreadPoolExecutor(4) as threads:
        ids = list(threads.map(lambda number: asyncio.run(opened(number)), range(4)))
    assert len(set(ids)) == 4
