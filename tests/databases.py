"""Databases for the ledger's tests: a SQLite file, and a real PostgreSQL server.

The server is the one on this machine, or that of `TEST_POSTGRESQL_URL`. Without one its tests are
skipped, which CI refuses. A session creates two databases of its own there and drops them at its
end: one is emptied for each test that creates its own schema, the other keeps the schema and loses
its rows, which takes a millisecond. A test process has one such SQLite ledger too, and keeps it
open (`shared_ledger`): to create and open a file takes 20 ms.

No test depends on durability after a power cut, so no write waits for the disk (5 ms a commit).
"""

from __future__ import annotations

import asyncio
import atexit
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import asyncpg  # type: ignore[import-untyped]
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from anyio.lowlevel import checkpoint
from sqlalchemy import Connection, create_engine, event
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.dialects.sqlite.aiosqlite import SQLiteDialect_aiosqlite
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.util import LRUCache

from daybook.clock import Clock
from daybook.ledger import feature_tables, postgresql, schema, sqlite
from daybook.ledger.engine import Ledger
from daybook.ledger.feature_tables import all_tables
from daybook.ledger.sqlite_driver import BEGIN_WRITING
from daybook.ledger.tables import new_id

KINDS = ("sqlite", "postgresql")
URL = os.environ.get("TEST_POSTGRESQL_URL", "postgresql://root@127.0.0.1:5432/test")

# If the machine pauses for half a minute, PostgreSQL cuts off a write of this process. The product
# needs that, but here it would break unrelated tests. Child processes keep the shorter bound.
postgresql.IDLE_TRANSACTION_TIMEOUT = timedelta(minutes=10)

# SQLAlchemy caches compiled statements per engine. Each test opens its own ledger, and so its own
# engine, and would compile all statements again: half of the test's cost.
_COMPILED = LRUCache[Any, Any](3000)


for _dialect in (SQLiteDialect_aiosqlite, PGDialect_asyncpg):  # part of the cache key
    _dialect.__eq__ = lambda self, other: type(self) is type(other)  # type: ignore[method-assign]
    _dialect.__hash__ = lambda self: hash(type(self))  # type: ignore[method-assign]


def _sharing(*given: Any, **options: Any) -> AsyncEngine:
    engine = create_async_engine(*given, **options)
    engine.sync_engine._compiled_cache = _COMPILED
    return engine


for _module in (sqlite, postgresql):
    _module.create_async_engine = _sharing  # type: ignore[attr-defined]

_prepare = sqlite._prepare


def _prepare_without_sync(connection: Any, busy: timedelta) -> None:
    _prepare(connection, busy)
    connection.cursor().execute(_NO_SYNC)


_NO_SYNC = "PRAGMA synchronous = OFF"
sqlite._prepare = _prepare_without_sync

migrate = schema.upgrade
"""The product's migration, for tests about it.

All others give a new SQLite ledger the tables, also those of features, that migrations made once in
this process: Alembic needs a seventh of a second for the ledger's, and again for the features'.
"""


def _create_tables(connection: Connection) -> str:
    tables = "SELECT count(*) FROM sqlite_master"
    if connection.dialect.name == "sqlite" and not connection.exec_driver_sql(tables).scalar():
        for statement in _statements():
            connection.exec_driver_sql(statement)
    return migrate(connection)


schema.upgrade = _create_tables

_PREFIX = "daybook_test_"
_TABLES = """
SELECT table_name::text, column_name::text, data_type::text, is_nullable::text,
    coalesce(column_default, '')
FROM information_schema.columns WHERE table_schema = 'public'
"""
_INDEXES = "SELECT indexname, indexdef, '', '', '' FROM pg_indexes WHERE schemaname = 'public'"
_FRESH_ID = "UPDATE facts SET value = '{}' WHERE key = 'id'"
_OTHERS = """
SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
    AND backend_type = 'client backend'
"""


class Database(Protocol):
    """A database reserved for one test, and queries on it that bypass the ledger."""

    kind: str
    address: str

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        """Run the statement, commit, and return its rows."""
        ...

    def tables(self) -> list[tuple[Any, ...]]:
        """Return the description of all tables, columns and indexes."""
        ...


class Sqlite:
    """A file that does not exist yet."""

    kind = "sqlite"

    def __init__(self, path: Path) -> None:
        self.path, self.address = path, f"sqlite+aiosqlite:///{path}"

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.path)) as connection, connection:
            connection.execute(_NO_SYNC)
            return connection.execute(statement).fetchall()

    def tables(self) -> list[tuple[Any, ...]]:
        return self.query("SELECT name, sql FROM sqlite_master ORDER BY name")


class Postgresql:
    """A database of the test session, with its own connection for queries."""

    kind = "postgresql"

    def __init__(self, portal: BlockingPortal, url: str) -> None:
        self.url, self.address = url, url.replace("postgresql://", "postgresql+asyncpg://", 1)
        self._portal = portal
        self._connection: Any = portal.call(asyncpg.connect, url)

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in self._portal.call(self._connection.fetch, statement)]

    def tables(self) -> list[tuple[Any, ...]]:
        return sorted(self.query(f"{_TABLES} UNION ALL {_INDEXES}"), key=str)

    def run(self, statements: str) -> None:
        """Run several statements in one transaction."""
        self._portal.call(self._connection.execute, statements)

    def cut_off(self) -> int:
        """Terminate every other connection to it; return how many there were."""
        return len(self.query(_OTHERS))

    def close(self) -> None:
        self._portal.call(self._connection.close)


class Server:
    """The PostgreSQL server and this session's databases there."""

    def __init__(self, portal: BlockingPortal, fresh: Postgresql, template: Postgresql) -> None:
        self._portal, self._fresh, self._kept = portal, fresh, template
        self._has_schema = False

    def empty(self) -> Postgresql:
        """Return a database without a table."""
        self._fresh.cut_off()
        self._fresh.run("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        return self._fresh

    def prepared(self) -> Postgresql:
        """Return a database with the tables of a new ledger and a new ledger id."""
        self._kept.cut_off()
        if not self._has_schema:
            self._portal.call(id_of, self._kept.address)
            self._has_schema = True
        self._kept.run("; ".join(_emptying(new_id()[:12])))
        return self._kept


def selected_cases(request: pytest.FixtureRequest) -> set[tuple[Any, str]]:
    """Return ``play`` and ``kind`` of each selected case of the fixture's module.

    So a fixture that plays the scenarios of a module leaves out those that no case asks for.
    """
    params = [
        vars(item)["callspec"].params for item in request.session.items if _is_of(item, request)
    ]
    return {(each["play"], each["kind"]) for each in params if "play" in each}


def _is_of(item: pytest.Item, request: pytest.FixtureRequest) -> bool:
    return item.path == request.path and "callspec" in vars(item)


def _emptying(ledger_id: str) -> list[str]:
    """Return the statements that make a ledger a new one with that id."""
    tables = [each.name for each in reversed(all_tables())]
    clear = [f"DELETE FROM {name}" for name in tables if name != "facts"]
    return [*clear, "DELETE FROM facts WHERE key <> 'id'", _FRESH_ID.format(ledger_id)]


@contextmanager
def server() -> Iterator[Server]:
    """Yield the server for one session; skip the test if there is none."""
    base = URL.rpartition("/")[0]
    with start_blocking_portal("asyncio") as portal:
        try:
            admin: Any = portal.call(_connected, URL)
        except OSError as error:
            pytest.skip(f"service absent: PostgreSQL at {URL.rpartition('@')[2]} ({error})")
        try:
            portal.call(_drop_left_over, admin)
            names = [f"{_PREFIX}{os.getpid()}_{kind}" for kind in ("fresh", "kept")]
            for name in names:
                portal.call(admin.execute, f"CREATE DATABASE {name}")
                # No test depends on durability after a power cut.
                portal.call(admin.execute, f"ALTER DATABASE {name} SET synchronous_commit = off")
            fresh, template = (Postgresql(portal, f"{base}/{name}") for name in names)
            try:
                yield Server(portal, fresh, template)
            finally:
                for each, name in zip((fresh, template), names, strict=True):
                    each.close()
                    portal.call(admin.execute, f"DROP DATABASE {name} WITH (FORCE)")
        finally:
            portal.call(admin.close)


async def _connected(url: str) -> Any:
    return await asyncpg.connect(url, timeout=60)


async def _drop_left_over(admin: Any) -> None:
    """Drop the databases of sessions that were killed."""
    like = _PREFIX.replace("_", r"\_") + "%"
    for row in await admin.fetch("SELECT datname FROM pg_database WHERE datname LIKE $1", like):
        pid = int(row["datname"].removeprefix(_PREFIX).partition("_")[0])
        if pid == os.getpid() or not _runs(pid):
            await admin.execute(f"DROP DATABASE IF EXISTS {row['datname']} WITH (FORCE)")


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def of_kind(
    kind: str, path: Path, server: Callable[[], Server], *, prepared: bool = False
) -> Database:
    """Return a database for one test.

    ``path`` is where a file may be; ``server`` is called only if it is needed.
    """
    if kind == "sqlite":
        there = Sqlite(path)
        if prepared:
            shutil.copy(_template(), path)
            there.query(_FRESH_ID.format(new_id()[:12]))
        return there
    return server().prepared() if prepared else server().empty()


def _use_in_every_thread(_: Any, __: Any, ___: Any, options: dict[str, Any]) -> None:
    options["check_same_thread"] = False


def _execute_at_once(connection: Any, _: Any) -> None:
    """Let the driver's connection execute each function in the thread of the event loop.

    To switch to the connection's thread and back needs more CPU time than a small statement. After
    each function that the thread would execute, other tasks have their turn. The thread still waits
    for the lock, because another task may hold it with another ledger.
    """
    driver = connection._connection
    in_thread = driver._execute
    in_its_thread = list[Callable[..., Any]]()

    async def execute(function: Callable[..., Any], *given: Any, **named: Any) -> Any:
        # The thread of a cancelled task still waits. To use the connection here at the same time
        # would crash the process.
        if in_its_thread or _begins_writing(function):
            in_its_thread.append(function)
            return await in_thread(call, function, *given, **named)
        try:
            return function(*given, **named)
        finally:
            await checkpoint()

    def call(function: Callable[..., Any], *given: Any, **named: Any) -> Any:
        try:
            return function(*given, **named)
        finally:
            in_its_thread.remove(function)

    driver._execute = execute


def _begins_writing(function: Any) -> bool:
    """Return whether the function of `sqlite_driver.execute` begins a transaction that writes."""
    names = getattr(getattr(function, "__code__", None), "co_freevars", ())
    if "operation" not in names:
        return False
    return bool(function.__closure__[names.index("operation")].cell_contents == BEGIN_WRITING)


class SharedLedger(Ledger):
    """The SQLite ledger of this test process, in a file of its own.

    Its tests use it one after the other, each in its own event loop. The driver's connections
    belong to no loop, but a lock and a queue do: `begin` replaces the one, and a ledger with the
    other is closed (`is_free`).
    """

    def __init__(self, path: Path) -> None:
        super().__init__(f"sqlite+aiosqlite:///{path}")
        event.listen(self._engine.sync_engine, "do_connect", _use_in_every_thread, insert=True)
        event.listen(self._engine.sync_engine, "connect", _execute_at_once)
        self.database = Sqlite(path)
        self._beside = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._beside.execute(_NO_SYNC)

    def begin(self, clock: Clock) -> None:
        """Make it a new ledger, whose time is ``clock``."""
        self.id, self.clock = new_id()[:12], clock
        self._turn, self._verified_at = asyncio.Lock(), time.monotonic()
        self.loop = asyncio.get_running_loop()
        self._beside.executescript(";".join(["BEGIN", *_emptying(self.id), "COMMIT"]))

    @property
    def is_free(self) -> bool:
        """Whether the last test has left nothing that the next one would meet."""
        pool: Any = self._engine.pool
        waited = "_queue" in vars(pool._pool) and pool._pool._queue._loop is not None
        return pool.checkedout() == 0 and not waited

    async def close(self) -> None:
        self._beside.close()
        await super().close()


_SHARED = list[SharedLedger]()


@asynccontextmanager
async def shared_ledger(clock: Clock) -> AsyncIterator[SharedLedger]:
    """Yield the SQLite ledger of this process, as empty as a new one."""
    if not _SHARED:
        path = Path(tempfile.mkdtemp(prefix="daybook-shared-")) / "ledger.db"
        shutil.copy(_template(), path)
        opened = SharedLedger(path)
        await opened.__aenter__()
        _SHARED.append(opened)
    ledger = _SHARED[0]
    ledger.begin(clock)
    yield ledger
    if not ledger.is_free:
        await close_shared()


async def close_shared() -> None:
    """Close the ledger of this process, if one is open, and delete its file."""
    while _SHARED:
        ledger = _SHARED.pop()
        await ledger.close()
        shutil.rmtree(ledger.database.path.parent)


@cache
def _template() -> Path:
    """Return a file with a new ledger's tables, migrated once."""
    folder = tempfile.mkdtemp(prefix="daybook-template-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = Path(folder) / "ledger.db"
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        migrate(connection)
        for each, line in feature_tables._lines():
            if each.is_own:
                line.migrate(connection, line.head())
    engine.dispose()
    with closing(sqlite3.connect(path)) as file:
        file.execute("PRAGMA journal_mode = WAL")
    return path


@cache
def _statements() -> tuple[str, ...]:
    """Return the statements that make an empty SQLite file the template."""
    others = ("BEGIN", "COMMIT", 'INSERT INTO "facts"')
    with closing(sqlite3.connect(_template())) as file:
        return tuple(line for line in file.iterdump() if not line.startswith(others))


def server_of(request: pytest.FixtureRequest) -> Callable[[], Server]:
    """Return a function that gets the session's server on demand, because it may be missing."""

    def found() -> Server:
        there: Server = request.getfixturevalue("postgresql")
        return there

    return found


async def id_of(address: str) -> str:
    """Open the ledger there, which migrates it, and return its id."""
    async with Ledger(address) as ledger:
        return ledger.id


def version_of(database: Database) -> list[tuple[Any, ...]]:
    """Return the ledger's schema version."""
    return database.query(f"SELECT version_num FROM {schema.VERSION_TABLE}")
