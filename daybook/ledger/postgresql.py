"""A ledger in a PostgreSQL database, in the first schema of the user's search path.

A write transaction acquires one advisory lock when it starts; the server releases the lock when the
transaction ends. Each statement sees everything committed before it, so data read under the lock is
still current at the commit. A read transaction sees a snapshot and waits for no lock.

A connection may be lost before a commit's answer arrives. The server keeps the status of each
transaction, so the ledger queries that status to find out whether the write was committed. If the
server does not answer in time, the ledger raises `LedgerUnreachable`, and the result stays unknown.
The result also stays unknown if a checkpoint, a crash or a failover to a standby followed, because
another transaction may have got its id; and if the server does not let this be seen, as on Amazon
Aurora.

A process that stalls in the middle of a write loses its connection and thereby the lock; its writes
are rolled back. The same happens if the network between the process and the server is cut.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import sys
import time
from datetime import timedelta
from typing import Any
from urllib.parse import urlencode

import asyncpg  # type: ignore[import-untyped]
from sqlalchemy import TextClause, event, text
from sqlalchemy.engine import URL, ExceptionContext, make_url
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from daybook import settings
from daybook.errors import InvalidInput, LedgerUnreachable
from daybook.ledger import database, texts
from daybook.ledger.database_clock import DatabaseClock
from daybook.ledger.in_use import InUse

CONNECT_TIMEOUT = timedelta(seconds=10)
"""Maximum time to connect."""

ANSWER_TIMEOUT = timedelta(seconds=10)
"""Maximum time to wait for an answer, in addition to the wait for the lock."""

IDLE_TRANSACTION_TIMEOUT = timedelta(seconds=10)
"""Maximum idle time of a write transaction; other writers wait longer than this for the lock.

The network may be cut in the middle of a write of any process. Then another keeper leads within
this time and `Timing.leader_lease`.
"""

SILENCE_TIMEOUT = timedelta(seconds=10)
"""How long a server's machine may acknowledge nothing before its connections count as lost.

Only Linux lets a process set this; elsewhere a cut network shows at the timeout of a command.
"""

COMMIT_POLL_INTERVAL = timedelta(milliseconds=200)

_TLS_FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl")
"""Options of a ledger's address that name files."""

_NUMBER = "transaction"
"""The key under which a session keeps the id of its transaction, and its era (None: unknown).

Within an era, no id is used twice: recovery ends with a checkpoint or a new timeline. An ordinary
checkpoint begins an era too.
"""

_ERA = """
left(pg_walfile_name(pg_current_wal_lsn()), 8)
    || (SELECT checkpoint_lsn FROM pg_control_checkpoint())
"""
_MOMENT = text("SELECT clock_timestamp(), NULL, NULL")
# PostgreSQL guarantees an order of evaluation only for the conditions of a CASE.
_LOCK = """
SELECT CASE WHEN set_config('lock_timeout', :wait, true) IS NOT NULL
             AND set_config('idle_in_transaction_session_timeout', :still, true) IS NOT NULL
       THEN CASE WHEN pg_advisory_xact_lock(
                hashtextextended('daybook ' || coalesce(current_schema(), ''), 0)) IS NOT NULL
            THEN clock_timestamp() END END,
       CAST(pg_current_xact_id() AS text), {era}
"""
_LOCK_WITH_ERA, _LOCK_ALONE = text(_LOCK.format(era=_ERA)), text(_LOCK.format(era="NULL"))
_IN_RECOVERY = text("SELECT pg_is_in_recovery()")
_NO_ERA = ("25006", "42501", "55000")
"""SQLSTATEs of a server that is a standby, or that does not let `_ERA` be read."""

_STATUS = text("""
SELECT CASE WHEN id < pg_current_xact_id() THEN pg_xact_status(id) END
FROM CAST(CAST(:number AS text) AS xid8) AS id
""")
_REPLICATED = text("SELECT pg_logical_emit_message(true, 'daybook', '')")
"""A write, so that its commit waits for a synchronous standby like that of another write."""

_DRIVERS = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
_AT_CONNECT = (*_DRIVERS, OSError, OverflowError, TypeError, ValueError)
"""Errors of a failed connection, and of an impossible port or option in the address."""

_CUT = (
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    # "cannot switch to state 12": the connection was cut while it was idle.
    asyncpg.InternalClientError,
    OSError,
)

_UNREACHABLE = ("08", "28", "53", "57P", "58", "XX")
"""Classes of SQLSTATE that mean that the ledger is unreachable.

In order: connection, authorisation, exhausted resources (such as connections, disk), operator
intervention, system errors, internal errors.
"""
_POOLED = (
    "a connection pool in front of the database does not keep prepared statements; with PgBouncer, "
    "set max_prepared_statements (version 1.21 or newer), or pool_mode = session"
)
_UNREACHABLE_STATES = {
    "25006": "it is read-only",
    "26000": _POOLED,  # the prepared statement is unknown
    "25P03": "this process stalled in a transaction",
    "3D000": "",  # no such database
    "42P05": _POOLED,  # the prepared statement exists already
    "3F000": "",  # no schema
    "42501": "",  # no permission
    "55000": "",  # not now, or not on this server
    "55P03": "locked: other writers did not release it in time",
}


class Postgresql:
    """The database at ``url``, whose clock is the clock of the ledger."""

    def __init__(self, url: URL, busy: timedelta) -> None:
        self.place, self.clock, self._busy = database.without_password(url), DatabaseClock(), busy
        self.engine = create_async_engine(
            url,
            json_serializer=texts.to_json,
            json_deserializer=texts.from_json,
            hide_parameters=True,  # they contain addresses, prompts and answers
            connect_args={
                "timeout": CONNECT_TIMEOUT.total_seconds(),
                "command_timeout": (busy + ANSWER_TIMEOUT).total_seconds(),
                "async_creator_fn": self._connect,
            },
        )
        self._lock = _LOCK_WITH_ERA
        event.listen(self.engine.sync_engine, "checkout", _refuse_closed)
        event.listen(self.engine.sync_engine, "handle_error", _mark_cut)
        self._snapshot = self.engine.execution_options(
            isolation_level="REPEATABLE READ", postgresql_readonly=True
        )

    async def _connect(self, *given: Any, **options: Any) -> Any:
        """Open a connection, with the options of TLS that the driver accepts only in an address.

        Raise `LedgerUnreachable` here, because SQLAlchemy translates only errors of statements.
        """
        files = {name: options.pop(name) for name in _TLS_FILES if name in options}
        for name, path in files.items():
            if not os.access(path, os.R_OK):  # the driver's error does not name the file
                raise LedgerUnreachable(self.place, f"the {name} {path} cannot be read")
        if files:
            options["dsn"] = f"postgresql://?{urlencode(files)}"
        try:
            try:
                connection = await asyncpg.connect(*given, **options)
            except asyncpg.InvalidPasswordError:
                if (password := self._new_password()) in (None, options.get("password")):
                    raise
                connection = await asyncpg.connect(*given, **{**options, "password": password})
            _limit_silence(connection)
            return connection
        except _AT_CONNECT as error:
            raise LedgerUnreachable(self.place, _why_not_connected(error)) from error

    def _new_password(self) -> str | None:
        """Return the password that the settings have now, which an operator may have changed."""
        try:
            url = make_url(settings.load().ledger_address)
        except InvalidInput:
            return None
        return url.password if database.without_password(url) == self.place else None

    def prepare_files(self, in_use: InUse | None) -> None:
        """Do nothing: the operator creates the database."""

    def identity(self, ledger_id: str) -> InUse:
        return InUse(self.place, ledger_id)

    def replaced(self) -> None:
        """Return None: a replacement cannot be seen from outside, so `Ledger` verifies the id."""

    def reading(self) -> AsyncSession:
        return AsyncSession(self._snapshot, expire_on_commit=False)

    async def begin_reading(self, session: AsyncSession) -> None:
        await self._begin(session, _MOMENT, {})

    def writing(self) -> AsyncSession:
        return AsyncSession(self.engine, expire_on_commit=False)

    async def begin_writing(self, session: AsyncSession, left: timedelta) -> None:
        end = time.monotonic() + left.total_seconds()
        try:
            await self._begin(session, self._lock, _bounds(left))
        except LedgerUnreachable as error:
            if self._lock is _LOCK_ALONE or _state(error.__cause__) not in _NO_ERA:
                raise
            await session.rollback()
            if (await session.execute(_IN_RECOVERY)).scalar_one():
                raise LedgerUnreachable(self.place, "it is a standby") from error
            left = timedelta(seconds=end - time.monotonic())
            await self._begin(session, _LOCK_ALONE, _bounds(left))
            self._lock = _LOCK_ALONE

    async def _begin(
        self, session: AsyncSession, first: TextClause, parameters: dict[str, str]
    ) -> None:
        """Send the first statement; retry over a new connection if the old connection was cut."""
        try:
            await self._execute_first(session, first, parameters)
        except LedgerUnreachable as error:
            if not _is_cut(error.__cause__):
                raise
            await session.rollback()
            await self._execute_first(session, first, parameters)

    async def _execute_first(
        self, session: AsyncSession, first: TextClause, parameters: dict[str, str]
    ) -> None:
        await session.connection()  # connect before the measurement: connecting takes time
        asked_at = time.monotonic()
        moment, number, era = (await session.execute(first, parameters)).one()
        self.clock.observe(moment, asked_at, time.monotonic())
        session.info[_NUMBER] = number, era

    async def commit(self, session: AsyncSession) -> None:
        """Commit; if only the answer was lost, query the transaction's status."""
        number, era = session.info[_NUMBER]
        try:
            await session.commit()
        except LedgerUnreachable:
            if not await self._was_committed(number, era):
                raise

    async def _was_committed(self, number: str, era: str | None) -> bool:
        """Return whether the transaction was committed; query until the server answers.

        Return True only if a synchronous standby has it too. Raise `LedgerUnreachable` after the
        time for which a writer waits for the lock, and if the id may be another transaction's.
        """
        end = time.monotonic() + self._busy.total_seconds()
        while True:
            left = timedelta(seconds=end - time.monotonic())
            try:
                async with self.writing() as session:
                    await self.begin_writing(session, left)  # lock free: the transaction has ended
                    status = await session.execute(_STATUS, {"number": number})
                    if status.scalar_one() != "committed":
                        return False
                    if era is None or session.info[_NUMBER][1] != era:
                        break
                    await session.execute(_REPLICATED)
                    await session.commit()
                    return True
            except LedgerUnreachable:
                if time.monotonic() >= end:
                    raise
            await asyncio.sleep(COMMIT_POLL_INTERVAL.total_seconds())
        why = "a commit's answer was lost; a checkpoint, restart or failover may have followed"
        raise LedgerUnreachable(self.place, f"{why}, so its result is unknown")

    def forget(self) -> None:
        self.clock.forget()
        self._lock = _LOCK_WITH_ERA

    def closed(self) -> None:
        """Do nothing: no file is left behind."""

    def why_unreachable(self, error: BaseException) -> str | None:
        cause = _cause(error)
        if isinstance(cause, TimeoutError):
            return "no answer in time"
        if _is_cut(cause):
            return f"the connection was lost: {cause}"
        state = _state(cause)
        if state in _UNREACHABLE_STATES:
            return _UNREACHABLE_STATES[state] or str(cause)
        return str(cause) if state.startswith(_UNREACHABLE) else None

    def skew(self) -> timedelta:
        return self.clock.skew()


def _limit_silence(connection: Any) -> None:
    """Let the kernel close the connection after `SILENCE_TIMEOUT`, if it can be set here."""
    transport = getattr(connection, "_transport", None)  # asyncpg has no public name for it
    connected = transport.get_extra_info("socket") if transport is not None else None
    if connected is None or connected.family == socket.AF_UNIX:
        return
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if sys.platform == "linux":
        seconds = SILENCE_TIMEOUT.seconds
        for option, value in (
            (socket.TCP_KEEPIDLE, seconds // 2),
            (socket.TCP_KEEPINTVL, seconds // 2),
            (socket.TCP_USER_TIMEOUT, 1000 * seconds),
        ):
            connected.setsockopt(socket.IPPROTO_TCP, option, value)


def _why_not_connected(error: BaseException) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        fix = "name the file of its authority as sslrootcert in the address"
        return f"its certificate is not trusted: {error.verify_message}; {fix}"
    return str(error) or f"no answer within {CONNECT_TIMEOUT.seconds} s"


def _refuse_closed(connection: Any, *_: Any) -> None:
    """Make the pool replace a connection that was cut while idle; the check costs no query.

    The pool handles the `DisconnectionError`.
    """
    if connection.driver_connection.is_closed():
        raise DisconnectionError("it was closed")


def _mark_cut(context: ExceptionContext) -> None:
    """Make the pool discard a connection that was lost or does not respond."""
    error = context.original_exception
    if _is_cut(error) or isinstance(_cause(error), TimeoutError):
        context.is_disconnect = True


def _cause(error: BaseException | None) -> BaseException | None:
    """Return the driver's own error, because SQLAlchemy's translation hides its message."""
    if isinstance(error, (*_DRIVERS, OSError)):
        return error
    return error.__cause__ if error is not None and error.__cause__ is not None else error


def _is_cut(error: BaseException | None) -> bool:
    """Return whether the connection was lost, and with it everything uncommitted."""
    cause = _cause(error)
    if isinstance(cause, asyncpg.InterfaceError):
        return "closed" in str(cause)
    return isinstance(cause, _CUT) and not isinstance(cause, TimeoutError)


def _state(error: BaseException | None) -> str:
    """Return the SQLSTATE of the driver's error; "" if it has none."""
    return str(getattr(_cause(error), "sqlstate", None) or "")


def _bounds(wait: timedelta) -> dict[str, str]:
    """Return the parameters of the lock statement, which waits at most ``wait`` for the lock."""
    return {"wait": _milliseconds(wait), "still": _milliseconds(IDLE_TRANSACTION_TIMEOUT)}


def _milliseconds(time_: timedelta) -> str:
    return str(max(1, time_ // timedelta(milliseconds=1)))
