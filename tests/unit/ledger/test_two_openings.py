"""One process may open the ledger twice: SQLite's locks are the process's, not the connection's."""

from __future__ import annotations

import sys
from pathlib import Path

import anyio
from sqlalchemy import text

from daybook.ledger.engine import Ledger

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
