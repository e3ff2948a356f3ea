"""Processes under test: a Prefect server, workers and keepers; each is restarted when it dies."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from chaos import hosts, joins
from chaos.hosts import Host, Network
from chaos.replicas import Replicas
from chaos.standby import USER, Databases
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
    With ``forked_from``, they are forks of this image, which start with less CPU. With ``network``,
    they are on its hosts, and Prefect and ledger use ``databases`` there, which `start` creates.
    """

    home: Home
    port: int
    ledger: str
    with_replicas: bool = False
    forked_from: image.Image | None = None
    network: Network | None = None
    databases: Databases | None = field(init=False, default=None)
    replicas: Replicas | None = field(init=False, default=None)
    members: dict[str, Member] = field(default_factory=dict)
    _restarters: list[asyncio.Task[None]] = field(default_factory=list)
    _may_start: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def api_url(self) -> str:
        return f"http://{self._host('').address}:{self.port}/api"

    @property
    def prefect(self) -> SelectedPrefect:
        return SelectedPrefect(self.api_url, self.api_url.removesuffix("/api"))

    def _host(self, member: str) -> Host:
        return self.network.host_of(member) if self.network else hosts.THIS_MACHINE

    async def start(self, workers: int, keepers: int, *, concurrency: int) -> None:
        """Start all processes, the server first."""
        self._may_start.set()
        if self.network is not None:
            self.databases = Databases.on(self.network.server)
            await self._start_databases(self.databases)
        await self._start_prefect()
        if self.network is not None:
            await joins.create_work_pool()
        variables = {
            "DAYBOOK_LEDGER_URL": self.ledger,
            "DAYBOOK_MAX_CONCURRENT": str(concurrency),
        }
        for number in range(1, keepers + 1):
            name = f"keeper-{number}"
            command = [*image.PYTHON_MODULE, "daybook", "keeper"]
            await self._add(name, self._starter(name, command, self.home, variables))
        homes = dict.fromkeys((f"worker-{number}" for number in range(1, workers + 1)), self.home)
        if self.network is not None:
            homes = await joins.join(self, self.network, homes, variables)
            variables = {}  # they are in the settings of the homes
        for name, home in homes.items():
            command = worker.command(home, name=name, limit=concurrency)
            await self._add(name, self._starter(name, command, home, variables))

    async def _start_databases(self, databases: Databases) -> None:
        await databases.create()
        for name in databases.ports:
            await self._add(name, partial(databases.start, name))
        await databases.allow_checks()
        await databases.replicate()

    async def _start_prefect(self) -> None:
        child = None
        if self.with_replicas:
            database, host = of_prefect(self.ledger), self._host("")
            replicas = Replicas(self.home, self.port, database, host, self.databases)
            self.replicas = replicas
            for name, command in replicas.bases():
                await self._add(name, partial(replicas.start, name, command))
            if self.databases is not None:
                await _wait_for_checks(self.members["balancer"], self.databases)
                await _create_databases(self.ledger)
            await replicas.migrate()
            for name, command in replicas.processes():
                await self._add(name, partial(replicas.start, name, command))
        else:
            await self._add("server", self._start_server)
            child = self.members["server"].child
        await server.wait_until_healthy(self.api_url, SERVER_START_TIMEOUT_SECONDS, child=child)

    async def fail_over(self) -> str:
        """Let the standby of the database become the primary; return the former primary."""
        assert self.databases is not None
        return await self.databases.fail_over(self.kill)

    def kill(self, name: str) -> None:
        """Kill a member and its processes with SIGKILL."""
        if (child := self.living(name)) is not None:
            proc.send_signal(proc.process_tree(child.process), signal.SIGKILL)

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
        if self.databases is not None:
            self.databases.remove()

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
        self, name: str, command: list[str], home: Home, variables: dict[str, str]
    ) -> Callable[[], Awaitable[Child]]:
        host = self._host(name)
        inherited = worker.environment(home, self.prefect)
        if home is not self.home:
            inherited = joins.environment(home)
        variables = inherited | variables | host.variables()

        async def start() -> Child:
            return await children.start(
                name,
                host.command(command),
                environment=variables,
                log=self.home.logs / f"{name}.log",
                folder=home.path,
                grace=worker.GRACE_SECONDS,
                forked_from=self.forked_from,
            )

        return start


async def _wait_for_checks(balancer: Member, databases: Databases) -> None:
    """Wait until HAProxy has found out which server is the standby; at its start it asks both."""
    standby = next(name for name in databases.ports if name != databases.primary)
    line = f"{standby.replace('postgres-', 'postgresql-')} is DOWN"
    async with asyncio.timeout(DATABASE_RESTART_SECONDS):
        while True:
            if balancer.child is not None and line in balancer.child.tail():
                return
            await asyncio.sleep(0.1)


async def cut_ledger(cluster: Cluster, seconds: float) -> None:
    """Make the ledger unavailable: lock SQLite, or terminate PostgreSQL's connections.

    The database of Prefect's replicas is unavailable with it.
    """
    if cluster.ledger.startswith("sqlite"):
        await asyncio.to_thread(_lock, Path(urlsplit(cluster.ledger).path), seconds)
        return
    name, prefect = _names(cluster.ledger)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        # Connect to another database, so that two simultaneous cuts do not end each other's
        # connection.
        await _administer(
            _maintenance(cluster.ledger),
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            f" WHERE datname IN ('{name}', '{prefect}')",
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
    ledger = f"postgresql+asyncpg://{urlsplit(plain).netloc}/daybook_chaos_{os.getpid()}"
    await _create_databases(ledger)
    try:
        yield ledger
    finally:
        for name in _names(ledger):
            await _administer(_maintenance(ledger), f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


async def _create_databases(ledger: str) -> None:
    for name in _names(ledger):
        await _administer(_maintenance(ledger), f"CREATE DATABASE {name}")


def _maintenance(ledger: str) -> str:
    """Return the address of a database that always exists on the server of ``ledger``."""
    server_address = ledger.rpartition("/")[0]
    return f"{server_address.replace('postgresql+asyncpg', 'postgresql')}/postgres"


def _names(ledger: str) -> tuple[str, str]:
    name = ledger.rpartition("/")[2]
    return name, of_prefect(name)


def on_hosts(network: Network) -> str:
    """Return the ledger's address on the hosts, whose database `Cluster.start` creates."""
    address = f"{network.server.address}:{hosts.DATABASE_PORT}"
    return f"postgresql+asyncpg://{USER}@{address}/daybook_chaos"


def of_prefect(ledger: str) -> str:
    """Return the address of the database for Prefect beside a ledger on PostgreSQL."""
    return f"{ledger}{_OF_PREFECT}"
