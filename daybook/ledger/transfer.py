"""Copies of a whole ledger: its rows into another database, and its state into a file.

A copy has the same id, facts and rows, whichever databases both are (SQLite or PostgreSQL).
"""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

from sqlalchemy import delete, func, insert, select
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import SQLModel

from daybook.errors import LedgerUnreachable
from daybook.ledger import migration_copies, task_tables
from daybook.ledger.engine import Ledger
from daybook.ledger.tables import Fact

BATCH_SIZE = 500
"""How many rows are in memory at a time."""

assert task_tables.TaskRow.metadata is SQLModel.metadata
TABLES = SQLModel.metadata.sorted_tables
"""All tables; a table comes after those that its foreign keys refer to."""


def sqlite_address(file: Path) -> str:
    """Return the address of a ledger in this file."""
    return f"sqlite+aiosqlite:///{file.absolute()}"


async def is_empty(session: AsyncSession) -> bool:
    """Return whether the ledger contains nothing but facts, as a new one does."""
    for table in TABLES:
        if table.name == Fact.__tablename__:
            continue
        if (await session.execute(select(*table.primary_key).limit(1))).first() is not None:
            return False
    return True


async def count_rows(session: AsyncSession) -> int:
    """Return how many rows all tables of the ledger have."""
    counts = [select(func.count()).select_from(table) for table in TABLES]
    return sum([(await session.execute(each)).scalar_one() for each in counts])


async def copy_rows(source: AsyncSession, target: AsyncSession) -> int:
    """Replace all rows of ``target`` by those of ``source``; return how many there are now.

    ``target`` is a session of `Ledger.write`, so the copy is complete or did not happen.
    """
    for table in reversed(TABLES):
        await target.execute(delete(table))
    count = 0
    for table in TABLES:
        result = await source.stream(select(table).execution_options(yield_per=BATCH_SIZE))
        async for batch in result.mappings().partitions():
            await target.execute(insert(table), [dict(row) for row in batch])
            count += len(batch)
    return count


async def snapshot(ledger: Ledger, file: Path) -> None:
    """Write the ledger's present state to a new SQLite file, while other processes continue.

    The state is that of one moment: no transaction is in it in part. Raises `LedgerUnreachable`.
    """
    url = make_url(ledger.address)
    if url.get_backend_name() == "sqlite":
        async with ledger.read():  # raises an error if the file is not that of the ledger
            try:
                await asyncio.to_thread(migration_copies.vacuum_into, Path(str(url.database)), file)
            except sqlite3.Error as error:
                raise LedgerUnreachable(ledger.place, str(error)) from error
        return
    async with (
        ledger.read() as source,
        Ledger(sqlite_address(file)) as copy,
        copy.write() as target,
    ):
        await copy_rows(source, target)
