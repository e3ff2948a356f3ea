"""A ledger in one SQLite file in WAL mode, whose write transactions begin immediate.

A transaction that begins deferred and writes later can fail when another wrote in between; one that
begins immediate waits its turn and then has the ledger to itself: that is the claim lock.
"""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, event
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from daybook.clock import SYSTEM
from daybook.errors import LedgerUnreachable
from daybook.ledger import database, texts

LOOK_AGAIN = timedelta(milliseconds=10)


class Sqlite:
    """The file that ``url`` names. It is judged by the machine's clock."""

    clock = SYSTEM

    def __init__(self, url: URL, busy: timedelta) -> None:
        self._url, self.place = url, database.shown(url)
        self.engine = create_async_engine(
            url,
            json_serializer=texts.to_json,
            hide_parameters=True,
            connect_args={"factory": _Connection},
        )
        event.listen(self.engine.sync_engine, "connect", lambda raw, _: _prepare(raw, busy))
        event.listen(self.engine.sync_engine, "begin", lambda opened: _begin(opened, busy))
        self._immediate = self.engine.execution_options(immediate=True)

    def make_room(self) -> None:
        """Make the file, so that it is never readable by others, not even for a moment."""
        name = self._url.database
        if not name or name == ":memory:":
            return
        path = Path(name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            # Only a new file is ever opened by hand: closing any descriptor of a file drops all
            # locks that this process holds on it, and another process would then delete the WAL
            # under it.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        except FileExistsError:
            # Looked at, because a failed connection leaves a thread of the driver's behind, which
            # complains on the terminal when the loop is closed.
            if not path.is_file():
                raise LedgerUnreachable(self.place, "it is no file") from None
            if not os.access(path, os.R_OK | os.W_OK):
                raise LedgerUnreachable(self.place, "no permission to read and write it") from None
        except OSError as error:
            raise LedgerUnreachable(self.place, error.strerror or str(error)) from error

    def reading(self) -> AsyncSession:
        return AsyncSession(self.engine, expire_on_commit=False)

    async def begin_reading(self, session: AsyncSession) -> None:
        """Nothing: its first query begins it, and waits for nobody."""

    def writing(self) -> AsyncSession:
        return AsyncSession(self._immediate, expire_on_commit=False)

    async def begin_writing(self, session: AsyncSession, left: timedelta) -> None:
        # Take the lock now, so that all that is read here is still true at the commit.
        await session.connection(execution_options={"left": left})

    async def commit(self, session: AsyncSession) -> None:
        await session.commit()

    def why_unreachable(self, error: BaseException) -> str | None:
        # An error of no class of its own: "file is not a database", "disk image is malformed".
        if isinstance(error, sqlite3.OperationalError) or type(error) is sqlite3.DatabaseError:
            return str(error)
        return None

    def skew(self) -> timedelta:
        return timedelta(0)


class _Connection(sqlite3.Connection):
    """One that lets go of the lock when it is closed.

    A connection is closed in the middle of a transaction where its task was cancelled. SQLite keeps
    it, and its lock, for as long as anybody has a cursor of it with rows to come: the error's
    traceback, say.
    """

    def close(self) -> None:
        """Undo what was begun, then close."""
        with suppress(sqlite3.Error):
            self.rollback()
        super().close()


def _prepare(connection: Any, busy: timedelta) -> None:
    # The driver's own transaction handling is switched off: `_begin` says how one begins.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(_waiting(busy))
    _to_wal(cursor, busy)
    cursor.execute("PRAGMA synchronous = FULL")  # an outcome survives a power cut
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _to_wal(cursor: Any, busy: timedelta) -> None:
    """Switch the file to WAL; where it is, this is no change and waits for nobody.

    SQLite does not wait for a lock here, whatever the busy timeout says: two processes that open a
    new ledger at once would meet.
    """
    end = time.monotonic() + busy.total_seconds()
    while True:
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() >= end:
                raise
            time.sleep(LOOK_AGAIN.total_seconds())


def _begin(connection: Connection, busy: timedelta) -> None:
    """``left``, an option of the connection, is how much of ``busy`` this writer has left."""
    options = connection.get_execution_options()
    if not options.get("immediate", False):
        connection.exec_driver_sql("BEGIN")
        return
    left = options.get("left", busy)
    if left < busy:
        connection.exec_driver_sql(_waiting(left))
    try:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    finally:
        if left < busy:
            connection.exec_driver_sql(_waiting(busy))


def _waiting(busy: timedelta) -> str:
    return f"PRAGMA busy_timeout = {max(0, busy // timedelta(milliseconds=1))}"
