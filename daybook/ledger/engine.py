"""The ledger: one database, whose write transactions hold the claim lock.

`daybook.ledger.sqlite` and `postgresql` contain the parts that differ between the databases. With
both, the writers of one `Ledger` queue for the lock in the order of their arrival. Only the first
writer has a connection, so waiting writers never delay reads.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from datetime import datetime, timedelta
from typing import Any, NoReturn

from sqlalchemy import event
from sqlalchemy.engine import ExceptionContext, make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as NoneFree
from sqlalchemy.ext.asyncio import AsyncSession

from daybook import settings
from daybook.clock import Clock
from daybook.errors import LedgerNewer, LedgerOlder, LedgerUnreachable
from daybook.ledger import database, feature_tables, in_use, migration_copies, schema, texts
from daybook.ledger.in_use import InUse
from daybook.ledger.tables import Fact
from daybook.timing import TIMING

log = logging.getLogger(__name__)

PROBE_TIMEOUT = timedelta(milliseconds=500)
"""How long `why_unwritable` waits for the lock by default."""
PROBE_FACT = "probed"
"""The key of the fact that `why_unwritable` writes: the time of the probe."""
VERIFY_INTERVAL_SECONDS = 5.0
"""Interval after which a transaction verifies the ledger's id again."""


def _sanitize(_: Any, __: Any, statement: str, parameters: Any, *___: Any) -> tuple[str, Any]:
    return statement, texts.sanitize_parameters(parameters)


class Ledger:
    """An open ledger; use it as an async context manager, in one event loop.

    Entering the context migrates the schema if needed, under a lock, and reads the ledger's id. It
    raises `LedgerUnreachable`, and `LedgerNewer` if this program cannot use the schema that a newer
    program wrote. While `daybook up` runs, it also raises `LedgerReplaced` if this is not the
    ledger that `up` uses, and `LedgerOlder` if that ledger needs a migration. If the ledger is
    deleted or replaced later, each transaction raises `LedgerReplaced`; with PostgreSQL, up to
    `VERIFY_INTERVAL_SECONDS` later. If a newer program migrates the open ledger to a schema that
    this program cannot use, each later write transaction raises `LedgerNewer`.
    ``clock`` decides whether a run is due; the default is the clock of the database (with SQLite,
    of this machine). ``busy`` is the maximum wait for the claim lock. Without ``migrates``, it
    raises `LedgerOlder` instead of migrating.
    """

    def __init__(
        self,
        address: str,
        clock: Clock | None = None,
        busy: timedelta = TIMING.ledger_lock,
        *,
        migrates: bool = True,
    ) -> None:
        self.address, self._migrates = address, migrates
        self._busy, self._turn = busy, asyncio.Lock()
        warm = (address, busy) in _warm
        self._database = _warm.pop((address, busy)) if warm else _database_at(address, busy)
        self._engine = self._database.engine
        self.clock = clock or self._database.clock
        self.id = ""
        self.loop: asyncio.AbstractEventLoop | None = None
        """The event loop in which this ledger is open, and can be used; None if it is closed."""
        self._verified_at = 0.0

    @property
    def place(self) -> str:
        """Return the address, without a password."""
        return self._database.place

    async def __aenter__(self) -> Ledger:
        running, self.loop = in_use.find(self.place), asyncio.get_running_loop()
        self._database.prepare_files(running)
        try:
            self.id = await self._migrate(running)
            self._verified_at = time.monotonic()
        except BaseException:
            await self.close()  # `__aexit__` is not called if entering fails
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the ledger's connections."""
        self.loop = None
        await self._engine.dispose()
        self._database.closed()

    def identity(self) -> in_use.InUse:
        """Return the ledger's identity, which `up` records for comparison by other processes."""
        return self._database.identity(self.id)

    async def _verify(self, session: AsyncSession, *, writes: bool = False) -> None:
        """Raise `LedgerReplaced` if this is not the ledger that was opened.

        Raise `LedgerNewer` if this program can use it no longer. A session that ``writes`` has the
        lock, so no migration follows before its commit.
        """
        is_due = time.monotonic() - self._verified_at >= VERIFY_INTERVAL_SECONDS
        if not self.id or not (is_due or writes):
            return
        if is_due:
            error = await schema.replacement_error(session, self.place, self.id)
            if error is not None:
                raise error
        if (newer := await schema.newer_error(session)) is not None:
            raise newer
        if is_due:
            self._verified_at = time.monotonic()

    async def newer_schema(self) -> str:
        """Return the schema that a newer program has migrated this ledger to; "" if none has."""
        async with self.read() as session:
            connection = await session.connection()
            version = str(await connection.run_sync(schema.current))
        return "" if version == schema.head() else version

    async def until_newer(self) -> NoReturn:
        """Raise `LedgerNewer` when a newer program has made this ledger unusable for this one."""
        while True:
            await asyncio.sleep(VERIFY_INTERVAL_SECONDS)
            try:
                async with self.read() as session:
                    newer = await schema.newer_error(session)
            except LedgerNewer:
                raise
            except LedgerUnreachable:
                continue
            except Exception:  # such as a table that a restore has dropped for a moment
                log.exception("cannot read the version of the ledger's schema")
                continue
            if newer is not None:
                raise newer

    @asynccontextmanager
    async def _translated(self) -> AsyncIterator[None]:
        try:
            yield
        except NoneFree as error:
            raise LedgerUnreachable(self.place, "all connections are in use") from error

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncSession]:
        """Open a read-only session that sees a snapshot; raise `LedgerUnreachable`.

        `LedgerReplaced` is a kind of `LedgerUnreachable`.
        """
        async with self._translated(), self._database.reading() as session:
            await self._database.begin_reading(session)
            await self._verify(session)
            yield session

    @asynccontextmanager
    async def write(self, within: timedelta | None = None) -> AsyncIterator[AsyncSession]:
        """Open a write transaction with the claim lock; commit at the end, roll back on an error.

        Raise `LedgerUnreachable`, also if the lock is not free after the ledger's ``busy`` (by
        default `Timing.ledger_lock`), or after ``within`` if that is shorter. Do not open it inside
        another write transaction.
        """
        async with (
            self._queued(self._busy if within is None else min(within, self._busy)) as left,
            self._translated(),
            self._database.writing() as session,
        ):
            await self._database.begin_writing(session, left)
            await self._verify(session, writes=True)
            yield session
            await self._database.commit(session)

    @asynccontextmanager
    async def _queued(self, busy: timedelta) -> AsyncIterator[timedelta]:
        """Wait in this process's queue of writers; yield the rest of ``busy``.

        Raise `LedgerUnreachable` if the wait takes longer than ``busy``.
        """
        started_at, queued = time.monotonic(), self._turn.locked()
        try:
            async with asyncio.timeout(busy.total_seconds()):
                await self._turn.acquire()
        except TimeoutError as error:
            why = "locked, and other writers of this process wait for it too"
            raise LedgerUnreachable(self.place, why) from error
        try:
            waited = timedelta(seconds=time.monotonic() - started_at) if queued else timedelta(0)
            yield busy - waited
        finally:
            self._turn.release()

    async def why_unwritable(self, within: timedelta = PROBE_TIMEOUT) -> str:
        """Return why the ledger cannot be written, such as a full disk; "" if it can be written.

        The ledger counts as locked if the lock is not free after ``within``. Write a fact, because
        a full disk shows only at a commit.
        """
        try:
            async with self.write(within=within) as session:
                await session.merge(Fact(key=PROBE_FACT, value=self.now().isoformat()))
        except LedgerUnreachable as error:
            return error.why
        return ""

    def now(self) -> datetime:
        """Return the ledger's time, in UTC."""
        return self.clock.now()

    async def _migrate(self, in_use: InUse | None) -> str:
        """Migrate if needed and return the ledger's id.

        Copy the ledger first if the migration makes it unusable for programs of its version. Raise
        `LedgerNewer` if a newer program made it unusable for this one. If this home's running
        `daybook up` has a ledger ``in_use``, raise `LedgerReplaced` if this is another ledger, and
        `LedgerOlder` if this ledger needs a migration.
        """
        current_id = await self._id_if_current()
        if current_id and (in_use is None or in_use.id == current_id):
            return current_id
        async with self.read() as session:
            if in_use is not None:
                error = await schema.replacement_error(session, self.place, in_use.id)
                if error is not None:
                    raise error
            connection = await session.connection()
            is_current = await connection.run_sync(schema.is_usable)
            if is_current:
                ledger_id = await connection.run_sync(schema.ledger_id)
                if await connection.run_sync(feature_tables.are_current):
                    return ledger_id
        try:
            return await self._upgrade(in_use)
        except LedgerUnreachable as error:
            if not is_current:
                raise
            async with self.read() as session:  # only tables of features are not current
                connection = await session.connection()
                await connection.run_sync(feature_tables.leave_out_old, error)
            return ledger_id

    async def _id_if_current(self) -> str:
        """Return the ledger's id if it needs no migration, or "" if a further look is needed."""
        if not feature_tables.are_all_own():
            return ""
        async with self.read() as session:
            connection = await session.connection()
            try:
                return await connection.run_sync(feature_tables.id_if_current)
            except (LedgerUnreachable, DBAPIError):  # such as a table that does not exist yet
                return ""

    async def _upgrade(self, in_use: InUse | None) -> str:
        async with schema.exclusive(), self.write() as session:
            connection = await session.connection()
            earlier = await connection.run_sync(schema.earlier_version)
            keeps = in_use is not None or not self._migrates
            if keeps and earlier is not None:
                raise LedgerOlder(self.place, is_in_use=in_use is not None)
            of_features = ""
            if not keeps:
                of_features = await connection.run_sync(feature_tables.old_versions)
            if of_features or not (earlier is None or schema.keeps_programs_of(earlier)):
                await migration_copies.create(
                    session, self.address, self.place, earlier or schema.head(), of_features
                )
            ledger_id = await connection.run_sync(schema.upgrade)
            await connection.run_sync(
                feature_tables.upgrade,
                self.place,
                is_in_use=in_use is not None,
                migrates=self._migrates,
            )
            return ledger_id

    def skew(self) -> timedelta:
        """Return how far the database's clock is ahead of this machine's; zero on SQLite."""
        return self._database.skew()


def _database_at(address: str, busy: timedelta) -> database.Database:
    """Return the database at ``address``; a write waits at most ``busy`` for the claim lock."""
    url = make_url(address)
    found: database.Database
    if url.get_backend_name() == "sqlite":
        from daybook.ledger.sqlite import Sqlite

        found = Sqlite(url, busy)
    else:
        from daybook.ledger.postgresql import Postgresql

        found = Postgresql(url, busy)

    def translate(context: ExceptionContext) -> LedgerUnreachable | None:
        """Return the error to raise instead of the driver's; None if the ledger is reachable."""
        why = found.why_unreachable(context.original_exception)
        return None if why is None else found.replaced() or LedgerUnreachable(found.place, why)

    event.listen(found.engine.sync_engine, "handle_error", translate)
    event.listen(found.engine.sync_engine, "before_cursor_execute", _sanitize, retval=True)
    return found


_warm: dict[tuple[str, timedelta], database.Database] = {}
"""Closed databases that `warm_up` has used, each for the next `Ledger` with its address."""


async def warm_up(address: str, rehearse: Callable[[Ledger], Awaitable[None]]) -> None:
    """Open the ledger, call ``rehearse`` with it, and close it.

    The next `Ledger` of this process, or of one that is forked from it, with this address, then
    uses the same database object, which keeps the statements that ``rehearse`` has compiled. Raise
    the errors of `Ledger` and of ``rehearse``.
    """
    async with Ledger(address) as ledger:
        await rehearse(ledger)
    ledger._database.forget()
    _warm[address, ledger._busy] = ledger._database


_shared: ContextVar[Ledger | None] = ContextVar("shared_ledger", default=None)


@contextmanager
def sharing(ledger: Ledger) -> Iterator[None]:
    """Make `open_ledger` return ``ledger`` in the block and in the tasks that the block starts.

    ``ledger`` stays open: to open one takes milliseconds, too slow for each request of a server. A
    thread with an event loop of its own opens its own.
    """
    token = _shared.set(ledger)
    try:
        yield
    finally:
        _shared.reset(token)


@asynccontextmanager
async def open_ledger() -> AsyncIterator[Ledger]:
    """Open the ledger that the settings name; inside `sharing`, yield the shared ledger.

    Raise `InvalidInput` for an invalid setting, and the errors of `Ledger`: `LedgerUnreachable`
    with its kinds `LedgerReplaced` and `LedgerOlder`, and `LedgerNewer`.
    """
    shared = _shared.get()
    if shared is not None and shared.loop is asyncio.get_running_loop():
        yield shared
        return
    async with Ledger(settings.load().ledger_address) as ledger:
        yield ledger


@asynccontextmanager
async def reading() -> AsyncIterator[AsyncSession]:
    """Open the ledger and a session that reads it; raise the errors of `open_ledger`."""
    async with open_ledger() as ledger, ledger.read() as session:
        yield session
