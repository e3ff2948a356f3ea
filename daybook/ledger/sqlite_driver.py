"""Connections to SQLite that rarely switch threads, and can always be stopped.

A connection of aiosqlite has a thread. For each statement, SQLAlchemy sends the thread four tasks:
open a cursor, execute the statement, read the rows, close the cursor. The event loop wakes after
each task, which takes three quarters of the CPU time of a small statement. Here one function does
all four. Rows, counts, errors and transactions stay the same.

The function runs in the thread if it may take long: outside transactions, where it may wait for a
lock, and in a transaction that reads, which may be a report. A transaction that writes has the lock
already, and most of its statements are small (`SMALL`), because all other writers wait for its end.
They run in the event loop's thread, until `MAX_STEP_SECONDS` have passed since the last one that
did not. The commit waits for the disk, in the connection's thread.

This module uses private names of both libraries. If `unlike_expected` finds a difference, `connect`
returns SQLAlchemy's own connection, which works but is slower.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections import deque
from collections.abc import Callable
from contextlib import closing
from typing import Any, TypeVar

import aiosqlite
from sqlalchemy.dialects.sqlite.aiosqlite import (
    AsyncAdapt_aiosqlite_connection,
    AsyncAdapt_aiosqlite_cursor,
)
from sqlalchemy.engine import Dialect

_Result = TypeVar("_Result")

BEGIN_WRITING = "BEGIN IMMEDIATE"
"""The statement that begins a transaction that writes."""
SMALL = ("SELECT", "INSERT", "UPDATE")
"""Beginnings of the small statements of a writer; a deletion may have thousands of rows."""
MAX_STEP_SECONDS = 0.01
"""Time after which no further statement begins before the event loop's other tasks had a turn."""

_SLOTS = frozenset(
    ("_adapt_connection", "_connection", "_rows", "await_", "description", "lastrowid", "rowcount")
)


def unlike_expected() -> str:
    """Return how the libraries differ from the form that `execute` needs; empty if they do not."""
    slots = frozenset(getattr(AsyncAdapt_aiosqlite_cursor, "__slots__", ()))
    if not slots >= _SLOTS:
        return f"SQLAlchemy's cursor has no {', '.join(sorted(_SLOTS - slots))}"
    if list(inspect.signature(AsyncAdapt_aiosqlite_cursor.execute).parameters)[1:] != [
        "operation",
        "parameters",
    ]:
        return "SQLAlchemy's cursor executes statements with other parameters"
    for name in ("_conn", "_execute"):
        if not hasattr(aiosqlite.Connection, name):
            return f"aiosqlite's connection has no {name}"
    return ""


def execute(cursor: Any, operation: str, parameters: Any = None) -> None:
    """Execute a statement for ``cursor``, a cursor of SQLAlchemy that reads all rows at once."""
    connection = cursor._connection

    def executed() -> tuple[Any, list[Any], Any, int]:
        with closing(connection._conn.cursor()) as raw:
            raw.execute(operation, () if parameters is None else parameters)
            rows = raw.fetchall() if raw.description else []
            return raw.description, rows, raw.lastrowid, raw.rowcount

    try:
        if operation.startswith(SMALL) and _runs_here(connection):
            # SQLAlchemy requires that something is awaited.
            description, rows, row_id, count = cursor.await_(_called(executed))
        else:
            is_writing = operation == BEGIN_WRITING or _is_writing(connection)
            # If the task is cancelled now, the thread goes on. SQLAlchemy then closes the
            # connection in the thread; no other statement may run beside it either.
            vars(connection)[_UNTIL] = 0.0
            description, rows, row_id, count = cursor.await_(connection._execute(executed))
            if is_writing:
                vars(connection)[_UNTIL] = time.monotonic() + MAX_STEP_SECONDS
    except Exception as error:
        cursor._adapt_connection._handle_exception(error)
        raise
    cursor.description, cursor._rows = description, deque(rows)
    cursor.lastrowid, cursor.rowcount = (-1, -1) if description else (row_id, count)


_UNTIL = "daybook_runs_here_until"
"""Attribute of a connection: the end of `MAX_STEP_SECONDS`.

It is 0 outside a transaction that writes, while the thread executes a statement, and after a
statement that has failed there.
"""


def _is_writing(connection: Any) -> bool:
    return bool(connection._conn.in_transaction and vars(connection).get(_UNTIL))


def _runs_here(connection: Any) -> bool:
    return _is_writing(connection) and time.monotonic() < vars(connection)[_UNTIL]


async def _called(function: Callable[[], _Result]) -> _Result:
    return function()


class Cursor(AsyncAdapt_aiosqlite_cursor):
    """A cursor that executes a statement in at most one call to the connection's thread."""

    __slots__ = ()

    def execute(self, operation: str, parameters: Any = None) -> None:
        connection: Any = self._adapt_connection
        connection._is_over = False
        execute(self, operation, parameters)


class DriverConnection(AsyncAdapt_aiosqlite_connection):
    """A connection that uses `Cursor`, and rolls back only if a transaction may be open.

    SQLAlchemy's pool rolls back each connection that returns to it. After a completed commit or
    rollback, this would be one more thread switch without an effect, so the connection skips it. If
    the commit or rollback failed or was cancelled, or a statement followed it, the connection does
    roll back.
    """

    __slots__ = ("_is_over",)

    def __init__(self, dbapi: Any, connection: Any) -> None:
        super().__init__(dbapi, connection)
        self._is_over = False

    def cursor(self, server_side: bool = False) -> AsyncAdapt_aiosqlite_cursor:
        self._is_over = False
        return super().cursor(server_side=True) if server_side else Cursor(self)

    def execute(self, *given: Any, **named: Any) -> Any:
        self._is_over = False
        return super().execute(*given, **named)

    def commit(self) -> None:
        super().commit()
        self._is_over = True

    def rollback(self) -> None:
        if not self._is_over:
            super().rollback()
            self._is_over = True


class Driver(aiosqlite.Connection):
    """A connection of the driver that may be stopped twice.

    If a task is cancelled while SQLAlchemy closes its connection, SQLAlchemy stops the connection,
    and then `close` stops it again. By then the thread has ended, so the future of the second stop
    would never be done, and the event loop, which waits for its tasks, would never end.
    """

    _is_stopped = False
    _stopped: asyncio.Future[Any] | None = None

    def stop(self) -> asyncio.Future[Any] | None:
        if not self._is_stopped:
            self._is_stopped = True
            self._stopped = super().stop()
        return self._stopped


def connect(dialect: Dialect, arguments: Any, options: Any) -> Any:
    """Return a new connection, with the arguments of SQLAlchemy's event `do_connect`."""
    own: Any = dialect.connect(*arguments, **options)
    return own if unlike_expected() else DriverConnection(own.dbapi, own._connection)
