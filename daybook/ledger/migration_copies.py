"""Copies of a ledger from before its migration, with which an operator can undo the migration.

Like a backup, a copy is a SQLite file, even if the ledger is in PostgreSQL. It has the earlier
schema and is in the home: `backups/<ledger id>-<schema>.db`. The copy is written under the claim
lock, completely or not at all, and the migration does not start without it. The last `KEPT_COPIES`
copies of each ledger stay.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import JSON, Connection, LargeBinary, create_engine, inspect
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from daybook.errors import LedgerUnreachable
from daybook.home import current_home, sync_folder
from daybook.ledger import feature_tables, schema

KEPT_COPIES = 3
_BATCH_SIZE = 500
_BATCH_SIZE_OF_FILES = 16  # each row may have a content of some MB


async def create(
    session: AsyncSession, address: str, place: str, version: str, of_features: str = ""
) -> Path:
    """Write the copy of a ledger with the schema ``version``; return its path.

    ``of_features`` are the features whose tables are to be migrated, with their versions.

    ``session`` is a session of `Ledger.write` that has changed nothing yet. Replace the copy of an
    earlier attempt. Raise `LedgerUnreachable` if the copy cannot be written.
    """
    connection = await session.connection()
    ledger_id = await connection.run_sync(schema.ledger_id)
    name = "-".join(filter(None, [ledger_id, version, of_features]))
    file = current_home().path / "backups" / f"{name}.db"
    draft = file.with_suffix(".draft")
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft.unlink(missing_ok=True)
        os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        url = make_url(address)
        if url.get_backend_name() == "sqlite":
            await asyncio.to_thread(vacuum_into, Path(str(url.database)), draft)
        else:
            await connection.run_sync(_copy_rows, draft, version)
        _sync(draft)
        draft.replace(file)
        sync_folder(file.parent)
    except (OSError, sqlite3.Error, DBAPIError) as error:
        with suppress(OSError):  # `backups` itself may be no folder
            draft.unlink(missing_ok=True)
        why = f"its copy before the migration cannot be written to {file}: {error}"
        raise LedgerUnreachable(place, why) from error
    for old in sorted(file.parent.glob(f"{ledger_id}-*.db"))[:-KEPT_COPIES]:
        if old != file:  # after an undone migration, its schema is older than the others
            old.unlink(missing_ok=True)
    return file


def vacuum_into(source: Path, file: Path) -> None:
    """Write the committed state of a SQLite ledger to ``file``, which is missing or empty.

    Others may read and write meanwhile. Raise `sqlite3.Error` if the copy fails.
    """
    # Like SQLite's backup API in one step, but the copy has no WAL and no free pages.
    name = f"{source.absolute().as_uri()}?mode=rw"
    with closing(sqlite3.connect(name, uri=True)) as connection:
        connection.execute("VACUUM INTO ?", (str(file),))


def _copy_rows(source: Connection, file: Path, version: str) -> None:
    """Copy the rows of a PostgreSQL ledger, for whose schema this program has no models."""
    engine = create_engine(f"sqlite:///{file}", hide_parameters=True)
    try:
        with engine.begin() as target:
            schema.ledger_line().migrate(target, version)
            feature_tables.copy_schema(source, target)
            for table in inspect(target).get_table_names():
                if table.startswith(schema.VERSION_TABLE):
                    continue
                columns = inspect(source).get_columns(table)
                names = ", ".join(f'"{each["name"]}"' for each in columns)
                read = ", ".join(
                    f'CAST("{each["name"]}" AS TEXT)'
                    if isinstance(each["type"], JSON)
                    else f'"{each["name"]}"'
                    for each in columns
                )
                places = ", ".join("?" * len(columns))
                size = batch_size(each["type"] for each in columns)
                for batch in _batches(source, table, read, size):
                    target.exec_driver_sql(
                        f'INSERT INTO "{table}" ({names}) VALUES ({places})', batch
                    )
    finally:
        engine.dispose()


def batch_size(types: Iterable[Any]) -> int:
    """Return how many rows of a table with columns of ``types`` may be in memory at a time."""
    has_files = any(isinstance(each, LargeBinary) for each in types)
    return _BATCH_SIZE_OF_FILES if has_files else _BATCH_SIZE


def _batches(
    source: Connection, table: str, columns: str, size: int
) -> Iterator[list[tuple[Any, ...]]]:
    # A cursor that the driver opens stays open until the end of the transaction, and a table with
    # an open cursor cannot be altered. So declare and close the cursor here. The driver caches a
    # prepared statement by its text, so the cursor of each table has its own name.
    cursor = f'"copy_{table}"'
    query = f'SELECT {columns} FROM "{table}"'
    source.exec_driver_sql(f"DECLARE {cursor} NO SCROLL CURSOR FOR {query}")
    while batch := source.exec_driver_sql(f"FETCH {size} FROM {cursor}").all():
        yield [tuple(map(_stored, row)) for row in batch]
    source.exec_driver_sql(f"CLOSE {cursor}")


def _stored(value: Any) -> Any:
    """Return the value as a SQLite ledger stores it."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
    return value


def _sync(file: Path) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
