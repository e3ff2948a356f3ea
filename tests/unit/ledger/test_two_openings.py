"""One process may open the ledger twice: SQLite's locks are the process's, not the connection's."""

from __future__ import annotations

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import pytest
from sqlalchemy import text

from daybook.ledger.engine import Ledger

pytestmark = pytest.mark.anyio

WRITE = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
connection.execute("INSERT INTO facts (key, value) VALUES ('seen', 'yes')")
connection.commit()
connection.close()
"""


async def test_a_second_opening_does_not_let_another_process_take_the_wal_away(
    tmp_path: Path,
) -> None:
    file = tmp_path / "ledger.db"
    address = f"sqlite+aiosqlite:///{file}"
    async with Ledger(address) as first, first.read() as session:
        # An open connection, and then a second opening that comes and goes.
        await session.execute(text("SELECT 1"))
        await session.rollback()
        async with Ledger(address):
            pass
        await anyio.run_process([sys.executable, "-c", WRITE, str(file)])
        seen = await session.execute(text("SELECT value FROM facts WHERE key = 'seen'"))
        assert seen.scalar_one() == "yes"
        assert (tmp_path / "ledger.db-wal").exists()


async def test_new_ledgers_may_be_entered_at_once(tmp_path: Path) -> None:
    # Alembic's migrations share one context in a process, of whichever ledger.
    ledgers = [Ledger(f"sqlite+aiosqlite:///{tmp_path}/{n}.db") for n in range(4)]
    async with AsyncExitStack() as stack:
        await asyncio.gather(*(stack.enter_async_context(each) for each in ledgers))
        assert len({each.id for each in ledgers}) == 4


def test_in_several_loops_as_well(tmp_path: Path) -> None:
    async def opened(number: int) -> str:
        async with Ledger(f"sqlite+aiosqlite:///{tmp_path}/{number}.db") as ledger:
            return ledger.id

    with ThreadPoolExecutor(4) as threads:
        ids = list(threads.map(lambda number: asyncio.run(opened(number)), range(4)))
    assert len(set(ids)) == 4
