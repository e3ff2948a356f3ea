"""Opening the ledger: one database, whose write transactions hold the claim lock.

What differs between SQLite and PostgreSQL stands in `daybook.ledger.sqlite` and `postgresql`. Here
is what does not: the writers of one `Ledger` queue for the lock in the order in which they came,
and only the first of them holds a connection: however many wait, reading goes on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import TimeoutError as NoneFree
from sqlalchemy.ext.asyncio import AsyncSession

from daybook.clock import Clock
from daybook.errors import LedgerUnreachable
from daybook.ledger import database, texts

BUSY = timedelta(seconds=30)
"""How long a transaction waits for its turn, in this process and at the database together."""


def _sound(_: Any, __: Any, statement: str, parameters: Any, *___: Any) -> tuple[str, Any]:
    return statement, texts.of_statement(parameters)


class Ledger:
    """An open ledger; use it as an async context manager, in one event loop.

    Entering brings the schema up to date (under a lock) and reads the ledger's id. Raises
    `LedgerUnreachable`, and `LedgerNewer` for a schema that this program does not know. Due is
    judged by ``clock``: if none is given, by that of the database, on SQLite the machine's.
    """

    def __init__(self, address: str, clock: Clock | None = None, busy: timedelta = BUSY) -> None:
        self.address = address
        self._busy, self._turn = busy, asyncio.Lock()
        self._database = database.of(address, busy)
        self._engine = self._database.engine
        event.listen(self._engine.sync_engine, "handle_error", self._translate)
        event.listen(self._engine.sync_engine, "before_cursor_execute", _sound, retval=True)
        self.clock = clock or self._database.clock
        self.id = ""

    @property
    def place(self) -> str:
        """The address, without a password."""
        return self._database.place

    async def __aenter__(self) -> Ledger:
        from daybook.ledger import schema

        self._database.make_room()
        try:
            self.id = await schema.bring_up_to_date(self)
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

    def _translate(self, context: ExceptionContext) -> LedgerUnreachable | None:
        """In place of the driver's error; None where it is a constraint, or a wrong statement."""
        why = self._database.why_unreachable(context.original_exception)
        return None if why is None else LedgerUnreachable(self.place, why)

    @asynccontextmanager
    async def _translated(self) -> AsyncIterator[None]:
        try:
            yield
        except NoneFree as error:
            raise LedgerUnreachable(self.place, "all connections are taken") from error

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncSession]:
        """A session that sees one moment of the ledger and writes nothing."""
        async with self._translated(), self._database.reading() as session:
            await self._database.begin_reading(session)
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
            self._database.writing() as session,
        ):
            await self._database.begin_writing(session, left)
            yield session
            await self._database.commit(session)

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
        """The ledger's time, in UTC."""
        return self.clock.now()

    def skew(self) -> timedelta:
        """How far the database's clock is ahead of this machine's; on SQLite it is the same."""
        return self._database.skew()
