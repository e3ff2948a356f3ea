"""Opening the ledger: one SQLite file in WAL mode, whose write transactions begin immediate.

A transaction that begins deferred and writes later can fail when another wrote in between; one that
begins immediate waits its turn (30 s at most) and then has the ledger to itself. On SQLite that is
the claim lock of `docs/promise.md` rule 1. The writers of one `Ledger` queue for it in the order in
which they came, and only the first of them holds a connection: however many wait, reading goes on.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any

from sqlalchemy import Connection, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DatabaseError, OperationalError
from sqlalchemy.exc import TimeoutError as NoneFree
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from daybook.clock import SYSTEM, Clock
from daybook.errors import LedgerUnreachable

BUSY = timedelta(seconds=30)
"""How long a transaction waits for its turn, in this process and at the file together."""
LOOK_AGAIN = timedelta(milliseconds=10)


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


class Ledger:
    """An open ledger; use it as an async context manager, in one event loop.

    Entering brings the schema up to date (under a lock) and reads the ledger's id. Raises
    `LedgerUnreachable`, and `LedgerNewer` for a schema that this program does not know.
    """

    def __init__(self, address: str, clock: Clock = SYSTEM, busy: timedelta = BUSY) -> None:
        self.address = address
        self._url = make_url(address)
        self._clock, self._busy, self._turn = clock, busy, asyncio.Lock()
        self._engine: AsyncEngine = create_async_engine(self._url)
        event.listen(self._engine.sync_engine, "connect", lambda raw, _: _prepare(raw, busy))
        event.listen(self._engine.sync_engine, "begin", lambda opened: _begin(opened, busy))
        self._writing = self._engine.execution_options(immediate=True)
        self.id = ""

    @property
    def place(self) -> str:
        """The address, without a password."""
        return self._url.render_as_string(hide_password=True)

    async def __aenter__(self) -> Ledger:
        from daybook.ledger import schema

        self._make_file()
        try:
            async with self._translated():
                self.id = await schema.bring_up_to_date(self._engine, self._writing)
        except BaseException:
            await self.close()  # who fails to enter never leaves
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Let go of the ledger's connections."""
        await self._engine.dispose()

    def _make_file(self) -> None:
        name = self._url.database
        if not name or name == ":memory:":
            return
        path = Path(name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            # Made here, so that it is never readable by others, not even for a moment. Only a new
            # file is ever opened by hand: closing any descriptor of a file drops all locks that
            # this process holds on it, and another process would then delete the WAL under it.
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

    @asynccontextmanager
    async def _translated(self) -> AsyncIterator[None]:
        try:
            yield
        except OperationalError as error:
            raise LedgerUnreachable(self.place, str(error.orig)) from error
        except NoneFree as error:
            raise LedgerUnreachable(self.place, "all connections are taken") from error
        except DatabaseError as error:
            if type(error) is not DatabaseError:
                raise  # a constraint, or a statement that is wrong
            # "file is not a database", "database disk image is malformed"
            raise LedgerUnreachable(self.place, str(error.orig)) from error

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncSession]:
        """A session that sees one moment of the ledger and writes nothing."""
        async with (
            self._translated(),
            AsyncSession(self._engine, expire_on_commit=False) as session,
        ):
            yield session

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncSession]:
        """One write transaction, holding the claim lock; committed at the end, else undone.

        Raises `LedgerUnreachable` when its turn has not come after `BUSY`. Not to be entered within
        another one.
        """
        async with (
            self._queued() as left,
            self._translated(),
            AsyncSession(self._writing, expire_on_commit=False) as session,
            session.begin(),
        ):
            # Take the lock now, so that all that is read here is still true at the commit.
            await session.connection(execution_options={"left": left})
            yield session

    @asynccontextmanager
    async def _queued(self) -> AsyncIterator[timedelta]:
        """Hold the place of this process's writer; yields what is left of the time to wait."""
        came, queued = time.monotonic(), self._turn.locked()
        try:
            async with asyncio.timeout(self._busy.total_seconds()):
                await self._turn.acquire()
        except TimeoutError as error:
            why = "locked, and other writers of this process wait for it too"
            raise LedgerUnreachable(self.place, why) from error
        try:
            waited = timedelta(seconds=time.monotonic() - came) if queued else timedelta(0)
            yield self._busy - waited
        finally:
            self._turn.release()

    def now(self) -> datetime:
        """The ledger's time, in UTC: on SQLite the machine's."""
        return self._clock.now()
