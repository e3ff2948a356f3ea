"""Processes under test: a Prefect server, workers and keepers; each is restarted when it dies."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from chaos.replicas import Replicas
from daybook.home import Home
from daybook.operations import server, worker
from daybook.operations.prefect_selection import SelectedPrefect
from daybook.processes import children, image, proc
from daybook.processes.children import Child

RESTART_DELAY_SECONDS = 1.0
SERVER_START_TIMEOUT_SECONDS = 300.0
"""Long enough for a loaded machine."""
DATABASE_RESTART_SECONDS = 60.0
"""Maximum time for which the PostgreSQL server may refuse the test's own connections."""


_OF_PREFECT = "_prefect"


@dataclass
class Member:
    """A process that may die; ``starts`` counts its starts."""

    name: str
    start: Callable[[], Awaitable[Child]]
    child: Child | None = None
    starts: int = 0


@dataclass
class Cluster:
    """The processes under test; ``ledger`` is the ledger's address.

    Prefect is Daybook's own server or, ``with_replicas``, several processes (`chaos.replicas`).
    With ``forked_from``, they are forks of this image, which start with less CPU.
    """

    home: Home
    port: int
    ledger: str
    with_replicas: bool = False
    forked_from: image.Image | None = None
    members: dict[str, Member] = field(default_factory=dict)
    _restarters: list[asyncio.Task[None]] = field(default_factory=list)
    _may_start: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def api_url(self) -> str:
        return server.api_url(self.port)

    @property
    def prefect(self) -> SelectedPrefect:
        return SelectedPrefect(self.api_url, server.ui_url(self.port))

    async def start(self, workers: int, keepers: int, *, concurrency: int) -> None:
        """Start all processes, the server first."""
        self._may_start.set()
        await self._start_prefect()
        for number in range(1, workers + 1):
            name = f"worker-{number}"
            command = worker.command(self.home, name=name, limit=concurrency)
            await self._add(name, self._starter(name, command, concurrency))
        for number in range(1, keepers + 1):
            name = f"keeper-{number}"
            command = [*image.PYTHON_MODULE, "daybook", "keeper"]
            await self._add(name, self._starter(name, command, concurrency))

    async def _start_prefect(self) -> None:
        child = None
        if self.with_replicas:
            replicas = Replicas(self.home, self.port, of_prefect(self.ledger))
            await replicas.migrate()
            for name, command in replicas.commands():
                await self._add(name, partial(replicas.start, name, command))
        else:
            await self._add("server", self._start_server)
            child = self.members["server"].child
        await server.wait_until_healthy(self.api_url, SERVER_START_TIMEOUT_SECONDS, child=child)

    def living(self, name: str) -> Child | None:
        """Return the process of this member if it is alive."""
        child = self.members[name].child
        return child if child is not None and child.exit_code is None else None

    def names(self, kind: str) -> list[str]:
        return [name for name in self.members if name.startswith(kind)]

    async def kill_all(self) -> None:
        """Kill everything with SIGKILL at once; nothing restarts before `start_all`."""
        self._may_start.clear()
        living = [child for name in self.members if (child := self.living(name)) is not None]
        await proc.kill([each for child in living for each in proc.process_tree(child.process)])

    async def start_all(self) -> None:
        """Start everything that `kill_all` killed; return when the server answers."""
        self._may_start.set()
        await server.wait_until_healthy(self.api_url, SERVER_START_TIMEOUT_SECONDS)

    async def close(self) -> None:
        """Stop all processes, the server last."""
        for restarter in self._restarters:
            restarter.cancel()
        await asyncio.gather(*self._restarters, return_exceptions=True)
        for name in reversed(self.members):
            if (child := self.living(name)) is not None:
                await child.terminate()

    async def _add(self, name: str, start: Callable[[], Awaitable[Child]]) -> None:
        member = Member(name, start)
        self.members[name] = member
        member.child, member.starts = await start(), 1
        self._restarters.append(asyncio.create_task(self._restart_when_dead(member)))

    async def _restart_when_dead(self, member: Member) -> None:
        while True:
            assert member.child is not None
            await member.child.wait()
            await asyncio.sleep(RESTART_DELAY_SECONDS)
            await self._may_start.wait()
            member.child = await member.start()
            member.starts += 1

    async def _start_server(self) -> Child:
        return await server.start(self.home, self.port, self.forked_from)

    def _starter(
        self, name: str, command: list[str], concurrency: int
    ) -> Callable[[], Awaitable[Child]]:
        variables = worker.environment(self.home, self.prefect)
        variables |= {
            "DAYBOOK_LEDGER_URL": self.ledger,
            "DAYBOOK_MAX_CONCURRENT": str(concurrency),
        }

        async def start() -> Child:
            return await children.start(
                name,
                command,
                environment=variables,
                log=self.home.logs / f"{name}.log",
                folder=self.home.path,
                grace=worker.GRACE_SECONDS,
                forked_from=self.forked_from,
            )

        return start


async def cut_ledger(cluster: Cluster, seconds: float) -> None:
    """Make the ledger unavailable: lock SQLite, or terminate PostgreSQL's connections.

    The database of Prefect's replicas is unavailable with it.
    """
    if cluster.ledger.startswith("sqlite"):
        await asyncio.to_thread(_lock, Path(urlsplit(cluster.ledger).path), seconds)
        return
    address, _, name = cluster.ledger.replace("postgresql+asyncpg", "postgresql").rpartition("/")
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        # Connect to another database, so that two simultaneous cuts do not end each other's
        # connection.
        await _administer(
            f"{address}/postgres",
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            f" WHERE datname IN ('{name}', '{name}{_OF_PREFECT}')",
        )
        await asyncio.sleep(0.1)


async def _administer(address: str, statement: str) -> None:
    """Execute ``statement``, although the PostgreSQL server may be restarting."""
    import asyncpg  # type: ignore[import-untyped]

    restarting = OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError
    end = time.monotonic() + DATABASE_RESTART_SECONDS
    while True:
        try:
            connection = await asyncpg.connect(address)
            try:
                await connection.execute(statement)
            finally:
                await connection.close()
        except restarting:
            if time.monotonic() > end:
                raise
            await asyncio.sleep(0.1)
        else:
            return


def _lock(path: Path, seconds: float) -> None:
    # A process stopped in the middle of a write keeps the lock until it continues.
    with closing(sqlite3.connect(path, isolation_level=None, timeout=600)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        time.sleep(seconds)
        connection.execute("ROLLBACK")


@asynccontextmanager
async def database(home: Home, address: str) -> AsyncIterator[str]:
    """Yield the ledger's address: a new database on the server at ``address``, or a file.

    `of_prefect` is the address of a second one there, for Prefect.
    """
    if not address:
        yield f"sqlite+aiosqlite:///{home.path / 'ledger.db'}"
        return
    plain = address.replace("postgresql+asyncpg", "postgresql")
    ledger = f"daybook_chaos_{os.getpid()}"
    names = (ledger, f"{ledger}{_OF_PREFECT}")
    for name in names:
        await _administer(plain, f"CREATE DATABASE {name}")
    try:
        yield f"postgresql+asyncpg://{urlsplit(plain).netloc}/{ledger}"
    finally:
        for name in names:
            await _administer(plain, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def of_prefect(ledger: str) -> str:
    """Return the address of the database for Prefect beside a ledger on PostgreSQL."""
    return f"{ledger}{_OF_PREFECT}"
