"""Writes the dumps of the version that is about to be released; needs `pg_dump`.

Usage: python -m tests.migrations.released 0.1.0
"""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

from daybook.ledger.engine import Ledger
from daybook.testing import ManualClock
from tests import databases
from tests.migrations.released.content import fill
from tests.world import World

FOLDER = Path(__file__).parent
_OF_THE_CONNECTION = ("\\", "SET ", "SELECT pg_catalog.set_config", "--")
"""Beginnings of the lines of `pg_dump` that are no part of the ledger."""


async def _fill(address: str) -> None:
    clock = ManualClock()
    async with Ledger(address, clock) as ledger:
        await fill(World(ledger, clock))


def of_sqlite(path: Path) -> str:
    with closing(sqlite3.connect(path)) as connection:
        return "\n".join(connection.iterdump()) + "\n"


def of_postgresql(url: str) -> str:
    command = ["pg_dump", "--inserts", "--no-owner", "--no-privileges", url]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    lines = [each for each in printed.splitlines() if not each.startswith(_OF_THE_CONNECTION)]
    return "\n".join(filter(None, lines)) + "\n"


def main(version: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.db"
        asyncio.run(_fill(f"sqlite+aiosqlite:///{path}"))
        (FOLDER / f"{version}-sqlite.sql").write_text(of_sqlite(path))
    with databases.server() as server:
        there = server.empty()
        asyncio.run(_fill(there.address))
        (FOLDER / f"{version}-postgresql.sql").write_text(of_postgresql(there.url))


if __name__ == "__main__":
    main(*sys.argv[1:])
