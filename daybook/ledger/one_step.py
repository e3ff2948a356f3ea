"""Statements that SQLAlchemy passes to the thread of a SQLite connection once.

SQLAlchemy asks the thread for a cursor, for the execution, for the rows and for the end of the
cursor, and the event loop waits for each. That is three quarters of a small statement's CPU. It
also rolls back after each transaction that has already ended.
"""

from __future__ import annotations

import inspect
from collections import deque
from contextlib import closing
from typing import Any, cast

import aiosqlite
from sqlalchemy.dialects.sqlite.aiosqlite import (
    AsyncAdapt_aiosqlite_connection,
    AsyncAdapt_aiosqlite_cursor,
)


def check_driver() -> None:
    """Raise `LookupError` if `execute` cannot replace the method of SQLAlchemy's cursor."""
    parts = {"_connection", "_adapt_connection", "description", "await_", "_rows"}
    parts |= {"rowcount", "lastrowid"}
    if not parts <= set(AsyncAdapt_aiosqlite_cursor.__slots__):
        raise LookupError("the cursor is not as expected")
    parameters = inspect.signature(AsyncAdapt_aiosqlite_cursor.execute).parameters
    if list(parameters) != ["self", "operation", "parameters"]:
        raise LookupError("the cursor does not execute statements as expected")
    if not hasattr(aiosqlite.Connection, "_execute"):
        raise LookupError("the driver does not execute functions as expected")
    if not isinstance(getattr(aiosqlite.Connection, "in_transaction", None), property):
        raise LookupError("the driver does not say whether it is in a transaction")


def execute(cursor: Any, operation: Any, parameters: Any = None) -> None:
    """Execute a statement, and fetch all of its rows, in one call of the connection's thread.

    ``cursor`` is a cursor of SQLAlchemy that is not ``server_side``: its rows are read at once.
    """
    connection = cursor._connection

    def in_its_thread() -> tuple[Any, list[Any], int, int]:
        with closing(connection._conn.cursor()) as found:
            found.execute(operation, () if parameters is None else parameters)
            fetched = found.fetchall() if found.description else []
            return found.description, fetched, found.lastrowid, found.rowcount

    try:
        description, fetched, row_id, count = cursor.await_(connection._execute(in_its_thread))
    except Exception as error:
        cursor._adapt_connection._handle_exception(error)
        raise
    cursor.description, cursor._rows = description, deque(fetched)
    cursor.lastrowid, cursor.rowcount = (-1, -1) if description else (row_id, count)


def needs_rollback(connection: AsyncAdapt_aiosqlite_connection) -> bool:
    """Return whether a rollback would do anything: it also resets a connection that is returned."""
    try:
        return bool(cast(Any, connection)._connection.in_transaction)
    except ValueError:  # it is closed, which the rollback reports
        return True


def connection_class() -> type[AsyncAdapt_aiosqlite_connection]:
    """Return `Connection`, or SQLAlchemy's own class if `execute` does not fit this version."""
    try:
        check_driver()
    except (LookupError, AttributeError, TypeError, ValueError):
        return AsyncAdapt_aiosqlite_connection
    return Connection


class Cursor(AsyncAdapt_aiosqlite_cursor):
    """A cursor that executes in one step."""

    __slots__ = ()

    def execute(self, operation: Any, parameters: Any = None) -> Any:
        execute(self, operation, parameters)


class Connection(AsyncAdapt_aiosqlite_connection):
    """A connection whose cursors execute in one step, unless they are ``server_side``."""

    __slots__ = ()

    def cursor(self, server_side: bool = False) -> AsyncAdapt_aiosqlite_cursor:
        return super().cursor(server_side=True) if server_side else Cursor(self)

    def rollback(self) -> None:
        if needs_rollback(self):
            super().rollback()
