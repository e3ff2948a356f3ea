"""Copies of a whole ledger: its rows into another database, and its state into a file.

A copy has the same id, facts and rows, even if one database is SQLite and the other PostgreSQL.
"""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

from sqlalchemy import delete, func, insert, select
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncSession

from daybook.errors import InvalidInput, LedgerNewer, LedgerUnreachable
from daybook.ledger import feature_tables, migration_copies, schema
from daybook.ledger.engine import Ledger
from daybook.ledger.feature_tables import all_tables
from daybook.ledger.tables import Fact


def sqlite_address(file: Path) -> str:
    """Return the address of a ledger in this file."""
    return f"sqlite+aiosqlite:///{file.absolute()}"


async def is_empty(session: AsyncSession) -> bool:
    """Return whether the ledger contains nothing but facts, like a new ledger."""
    for table in all_tables():
        if table.name == Fact.__tablename__:
            continue
        if (await session.execute(select(*table.primary_key).limit(1))).first() is not None:
            return False
    return True


async def count_rows(session: AsyncSession) -> int:
    """Return the total number of rows in all tables of the ledger."""
    counts = [select(func.count()).select_from(table) for table in all_tables()]
    return sum([(await session.execute(each)).scalar_one() for each in counts])


async def copy_rows(source: AsyncSession, target: AsyncSession) -> int:
    """Replace all rows of ``target`` by the rows of ``source``; return the number of rows.

    ``target`` is a session of `Ledger.write`, so either all rows are replaced, or none. Raise
    `InvalidInput` if ``source`` has tables of a feature that is not in use: its rows would be lost.
    Raise `LedgerNewer` if a newer program migrated it: its new columns would be lost.
    """
    connection = await source.connection()
    version = str(await connection.run_sync(schema.current))
    if version != schema.head():
        raise LedgerNewer(version, schema.head(), copies=True)
    if (newer := await connection.run_sync(feature_tables.newer_own)) is not None:
        raise LedgerNewer(*newer, copies=True)
    if unused := await connection.run_sync(feature_tables.unused):
        problem = f"it has tables of features that are not in use ({', '.join(unused)})"
        raise InvalidInput("ledger", problem, "`daybook doctor` names them; repair or install them")
    for table in reversed(all_tables()):
        await target.execute(delete(table))
    count = 0
    for table in all_tables():
        size = migration_copies.batch_size(each.type for each in table.columns)
        result = await source.stream(select(table).execution_options(yield_per=size))
        async for batch in result.mappings().partitions():
            await target.execute(insert(table), [dict(row) for row in batch])
            count += len(batch)
    return count


async def snapshot(ledger: Ledger, file: Path) -> None:
    """Write the ledger's present state to a new SQLite file, while other processes continue.

    The file has the state of one moment: it contains each transaction completely or not at all.
    Raise `LedgerUnreachable`.
    """
    url = make_url(ledger.address)
    if url.get_backend_name() == "sqlite":
        async with ledger.read():  # raises an error if the file does not belong to the ledger
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
