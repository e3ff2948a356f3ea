"""A ledger in one SQLite file in WAL mode, whose write transactions are `BEGIN IMMEDIATE`.

A deferred transaction that writes later can fail if another transaction wrote in between. An
immediate transaction waits for its turn, and no other transaction can write until it ends. So an
immediate transaction holds the claim lock.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import time
from contextlib import suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import aiosqlite
from sqlalchemy import Connection, event
from sqlalchemy.engine import URL, Dialect
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from daybook.clock import SYSTEM_CLOCK
from daybook.errors import DISK_FULL, LedgerReplaced, LedgerUnreachable
from daybook.home import is_disk_full
from daybook.ledger import database, sqlite_driver, texts
from daybook.ledger.in_use import InUse

log = logging.getLogger(__name__)

POLL_INTERVAL = timedelta(milliseconds=10)

WAL_SUFFIX = "-wal"
FILE_SUFFIXES = ("", WAL_SUFFIX, "-shm")
"""The suffixes of the files of a ledger in use."""

_OPENED = "opened"
"""The key under which a connection keeps the inodes of the files that it has opened."""


class Sqlite:
    """The database file at ``url``. The ledger's clock is the clock of this machine."""

    clock = SYSTEM_CLOCK

    def __init__(self, url: URL, busy: timedelta) -> None:
        self._url, self.place = url, database.without_password(url)
        self.engine = create_async_engine(
            url,
            json_serializer=texts.to_json,
            json_deserializer=texts.from_json,
            hide_parameters=True,
            connect_args={"factory": _SqliteConnection, "async_creator_fn": _connect},
        )
        named = url.database
        self._path = Path(named).absolute() if named and named != ":memory:" else None
        self._inode = self._wal = 0
        """The inode of the database file that `up` or the first connection opened, and the inode of
        its newest `-wal` file; 0 if not known.
        """
        self._stamp = ""
        """The stamp of that database file when it was last seen at its path."""

        def prepare(raw: Any, record: ConnectionPoolEntry) -> None:
            _prepare(raw, busy)
            record.info[_OPENED] = opened = self._inodes()
            self._inode, self._wal = self._inode or opened[0], opened[1]
            self._stamp = self._stamp_now()

        def begin(connection: Connection) -> None:
            _begin(connection, busy)
            self._compare(connection.info.get(_OPENED))

        def connect(dialect: Dialect, _: Any, arguments: Any, options: Any) -> Any:
            self._refuse_missing()
            return sqlite_driver.connect(dialect, arguments, options)

        def check_out(raw: Any, record: ConnectionPoolEntry, proxy: Any) -> None:
            if self._path is not None and not record.info[_OPENED][0]:
                # The file was moved away just then. SQLAlchemy replaces the connection.
                raise DisconnectionError("the ledger's file was away when this was opened")

        event.listen(self.engine.sync_engine, "checkout", check_out)
        event.listen(self.engine.sync_engine, "do_connect", connect)
        event.listen(self.engine.sync_engine, "connect", prepare)
        event.listen(self.engine.sync_engine, "begin", begin)
        self._immediate = self.engine.execution_options(immediate=True)

    def prepare_files(self, in_use: InUse | None) -> None:
        """Create the file so that other users can never read it, not even briefly.

        Raise the errors of `Database.prepare_files`, also if the path is not a readable and
        writable file.
        """
        path = self._path
        if path is None:
            return
        if in_use is not None:
            self._inode = in_use.inode
            if (error := self.replaced()) is not None:
                raise error
            if in_use.wal and not self._inodes()[1]:
                raise self._wal_lost()
        try:
            if in_use is not None:
                raise FileExistsError
            self._restore_wal()
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            # Open only a new file directly. Closing any descriptor of a file drops all locks that
            # this process holds on it, and another process could then delete the WAL in use.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        except FileExistsError:
            if not path.is_file():
                raise LedgerUnreachable(self.place, "it is not a file") from None
            if not os.access(path, os.R_OK | os.W_OK):
                raise LedgerUnreachable(self.place, "no permission to read and write it") from None
        except OSError as error:
            why = DISK_FULL if is_disk_full(path) else error.strerror or str(error)
            raise LedgerUnreachable(self.place, why) from error

    def reading(self) -> AsyncSession:
        return AsyncSession(self.engine, expire_on_commit=False)

    async def begin_reading(self, session: AsyncSession) -> None:
        """Do nothing: the first query begins the transaction, and waits for no lock."""

    def writing(self) -> AsyncSession:
        return AsyncSession(self._immediate, expire_on_commit=False)

    async def begin_writing(self, session: AsyncSession, left: timedelta) -> None:
        # Acquire the lock now, so that data read in this session is still current at the commit.
        await session.connection(execution_options={"left": left})

    async def commit(self, session: AsyncSession) -> None:
        # A cancellation that waits for its turn now rolls back. It would interrupt the commit, and
        # the task would not know whether it took effect.
        await asyncio.sleep(0)
        opened = (await session.connection()).sync_connection
        assert opened is not None
        inodes = opened.info.get(_OPENED)
        await session.commit()
        self._compare(inodes)

    def identity(self, ledger_id: str) -> InUse:
        return InUse(self.place, ledger_id, self._inode, bool(self._inodes()[1]))

    def replaced(self) -> LedgerReplaced | None:
        if not self._inode:
            return None
        inode = self._inodes()[0]
        if not inode:
            return LedgerReplaced(self.place, *database.MOVED_AWAY)
        return None if inode == self._inode else LedgerReplaced(self.place, *database.REPLACED)

    def _compare(self, opened: tuple[int, ...] | None) -> None:
        """Raise `LedgerReplaced` if one of the ``opened`` files is no longer at its path.

        A connection continues to read and write deleted files, while a process that opens the same
        paths sees other files. SQLite itself deletes none of the files while a connection is open.
        """
        if opened is None:
            return
        stamp = self._stamp_now()
        if opened == self._inodes() and opened[0] == self._inode:
            self._stamp = stamp
            return
        raise self.replaced() or self._wal_lost()

    def _wal_lost(self) -> LedgerReplaced:
        assert self._path is not None
        return LedgerReplaced(self.place, *database.wal_lost(self._path.name))

    def forget(self) -> None:
        self._inode, self._wal, self._stamp = 0, 0, ""

    def closed(self) -> None:
        """Set the `-wal` file aside if its database file was deleted or replaced.

        SQLite leaves the `-wal` file behind, and would apply it to any database file at the same
        path.
        """
        inodes = self._inodes()
        if (
            self._path is None
            or not self._wal
            or inodes[0] == self._inode
            or inodes[1] != self._wal
        ):
            return
        aside = self._aside(self._stamp)
        with suppress(OSError):
            os.replace(f"{self._path}{WAL_SUFFIX}", aside)
            log.warning(
                "%s is not the file that was opened; the last changes of the opened file are in %s",
                self._path,
                aside,
                extra={"action": "wal_set_aside"},
            )

    def _restore_wal(self) -> None:
        """Put the `-wal` file back if its own database file is back at the ledger's path.

        A new file may have the inode of the deleted one, but not its modification time and size,
        and so another stamp.
        """
        stamp = self._stamp_now()
        if stamp and not self._inodes()[1]:
            with suppress(OSError):
                os.rename(self._aside(stamp), f"{self._path}{WAL_SUFFIX}")

    def _aside(self, stamp: str) -> str:
        return f"{self._path}{WAL_SUFFIX}.of-{stamp}"

    def _stamp_now(self) -> str:
        """Return a stamp that identifies the file now at the ledger's path; "" if there is none."""
        try:
            status = os.stat(f"{self._path}")
        except OSError:
            return ""
        return f"{status.st_ino}-{status.st_mtime_ns}-{status.st_size}"

    def _inodes(self) -> tuple[int, ...]:
        """Return the inodes of the ledger's files; 0 for a missing file."""
        if self._path is None:
            return (0,) * len(FILE_SUFFIXES)
        return tuple(_inode(f"{self._path}{ending}") for ending in FILE_SUFFIXES)

    def _refuse_missing(self) -> None:
        """Raise `LedgerReplaced` or `LedgerUnreachable` if the file is missing."""
        if self._path is not None and not self._path.exists():
            raise self.replaced() or LedgerUnreachable(self.place, "there is no such file")

    def why_unreachable(self, error: BaseException) -> str | None:
        # "file is not a database" and "disk image is malformed" are errors without a subclass.
        if isinstance(error, sqlite3.OperationalError) or type(error) is sqlite3.DatabaseError:
            # On a full disk, SQLite may report "disk I/O error", because it cannot extend an index.
            is_full = "disk" in str(error) and self._path is not None and is_disk_full(self._path)
            return DISK_FULL if is_full else str(error)
        return None

    def skew(self) -> timedelta:
        return timedelta(0)


def _inode(path: str) -> int:
    try:
        return os.stat(path).st_ino
    except OSError:
        return 0


class _SqliteConnection(sqlite3.Connection):
    """A connection that creates no file and releases the lock when it is closed.

    If a task is cancelled, its connection is closed in the middle of a transaction. SQLite would
    keep the connection and its lock as long as a cursor with unread rows is referenced, for example
    by the error's traceback. So `close` rolls back first.
    """

    def __init__(self, name: str, **options: Any) -> None:
        if name and name != ":memory:":  # `mode=rw`: only `prepare_files` creates a ledger
            name = f"{Path(name).absolute().as_uri()}?mode=rw"
        super().__init__(name, **{**options, "uri": True})

    def close(self) -> None:
        """Roll back, then close."""
        with suppress(sqlite3.Error):
            self.rollback()
        super().close()


async def _connect(*arguments: Any, **options: Any) -> aiosqlite.Connection:
    """Return an open connection. If it cannot be opened, wait for the end of the driver's thread.

    The thread uses the event loop once more, and would print an error to the terminal if the loop
    were closed by then.
    """
    connection = sqlite_driver.Driver(
        partial(sqlite3.connect, *arguments, **options), iter_chunk_size=64
    )
    connection._thread.daemon = True  # SQLAlchemy sets this only if it creates the connection
    try:
        return await connection
    except BaseException:
        await asyncio.to_thread(connection._thread.join)
        raise


def _prepare(connection: Any, busy: timedelta) -> None:
    # Disable the driver's own transaction handling: `_begin` begins transactions.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(_busy_timeout(busy))
    _to_wal(cursor, busy)
    cursor.execute("PRAGMA synchronous = FULL")  # an outcome survives a power cut
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.execute("PRAGMA schema_version")  # this reads the file, and so opens the WAL
    cursor.fetchall()
    cursor.close()


def _to_wal(cursor: Any, busy: timedelta) -> None:
    """Switch the file to WAL; if it is already in WAL mode, do nothing and do not wait.

    SQLite does not wait for a lock here, whatever the busy timeout. Without the retries, one of two
    processes that open a new ledger at the same time would fail.
    """
    end = time.monotonic() + busy.total_seconds()
    while True:
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() >= end:
                raise
            time.sleep(POLL_INTERVAL.total_seconds())


def _begin(connection: Connection, busy: timedelta) -> None:
    """Begin a transaction.

    The execution option ``left`` is the time for which this writer may still wait for the write
    lock; the default is ``busy``.
    """
    options = connection.get_execution_options()
    if not options.get("immediate", False):
        connection.exec_driver_sql("BEGIN")
        return
    left = options.get("left", busy)
    if left < busy:
        connection.exec_driver_sql(_busy_timeout(left))
    try:
        connection.exec_driver_sql(sqlite_driver.BEGIN_WRITING)
    finally:
        if left < busy:
            connection.exec_driver_sql(_busy_timeout(busy))


def _busy_timeout(busy: timedelta) -> str:
    return f"PRAGMA busy_timeout = {max(0, busy // timedelta(milliseconds=1))}"
