"""A PostgreSQL server with a standby that replicates synchronously, and the failover to it.

HAProxy sends connections to the primary (`deployments/fleet/haproxy-postgresql.cfg`). A former
primary comes back as a copy of the new one.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from chaos.hosts import Host
from daybook.operations import server
from daybook.processes import children
from daybook.processes.children import Child

USER = "daybook"
NAMES = ("postgres-1", "postgres-2")
MAX_WAIT_SECONDS = 120.0
"""Maximum time until the standby has all of the primary's data, or is the primary."""
_POLL_INTERVAL_SECONDS = 0.1
_SETTINGS = {
    "listen_addresses": "*",
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "wal_receiver_status_interval": "1s",
    "wal_keep_size": "256MB",
    "fsync": "off",  # a kill of a process loses nothing that was written
    "full_page_writes": "off",
}
_SYNCHRONOUS = "SELECT count(*) FROM pg_stat_replication WHERE sync_state <> 'async'"


def missing() -> str:
    """Return "postgresql" if this machine does not have its programs, else ""."""
    return "" if _programs() else "postgresql"


def _programs() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return found[-1] if found else None


@dataclass
class Databases:
    """Two servers on ``host``, with their data in ``folder``; ``primary`` is the name of one."""

    host: Host
    folder: Path
    primary: str = NAMES[0]
    ports: dict[str, int] = field(
        default_factory=lambda: {name: server.free_port(0) for name in NAMES}
    )
    _failing_over: asyncio.Lock = field(default_factory=asyncio.Lock)

    @classmethod
    def on(cls, host: Host) -> Self:
        """Return servers on ``host`` without data, in a new folder."""
        folder = Path(tempfile.mkdtemp(prefix="daybook-chaos-"))
        shutil.chown(folder, "postgres", "postgres")
        return cls(host, folder)

    def remove(self) -> None:
        """Delete the data."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def addresses(self) -> dict[str, str]:
        """Return host and port of each server as HAProxy on the same host uses them."""
        return {name: f"127.0.0.1:{port}" for name, port in self.ports.items()}

    async def create(self) -> None:
        """Create the data of the primary, which accepts every connection."""
        data = self.folder / self.primary
        await self._run("initdb", "-D", str(data), "-U", USER, "-A", "trust", "-N")
        access = data / "pg_hba.conf"
        lines = "host all all all trust\nhost replication all all trust\n"
        access.write_text(access.read_text() + lines)

    async def start(self, name: str) -> Child:
        """Start a server; first copy the primary's data if this one is no standby yet."""
        data = self.folder / name
        if name != self.primary and not (data / "standby.signal").exists():
            await self._copy(data)
        options = [f"--{key}={value}" for key, value in _SETTINGS.items()]
        port = ("-p", str(self.ports[name]))
        return await self._start(name, "postgres", "-D", str(data), *port, *options)

    async def _copy(self, data: Path) -> None:
        while True:
            shutil.rmtree(data, ignore_errors=True)
            source = ("-h", self.host.address, "-p", str(self.ports[self.primary]), "-U", USER)
            command = ("-D", str(data), *source, "-R", "-c", "fast", "--no-sync")
            child = await self._start("copy", "pg_basebackup", *command)
            if not await child.wait():
                break
            await asyncio.sleep(_POLL_INTERVAL_SECONDS)
        # Once it is the primary, it waits for no standby before it has one.
        with (data / "postgresql.auto.conf").open("a") as file:
            file.write("synchronous_standby_names = ''\n")

    async def allow_checks(self) -> None:
        """Create the role with which HAProxy checks the servers."""
        await self._ask_primary("CREATE ROLE haproxy LOGIN")

    async def replicate(self) -> None:
        """Wait until the standby has all data; from then on, each commit waits for it."""
        await self._ask_primary(
            "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'"
        )
        await self._ask_primary("ALTER SYSTEM SET synchronous_standby_names = '*'")
        await self._ask_primary("SELECT pg_reload_conf()")
        await self._ask_primary(_SYNCHRONOUS)

    async def fail_over(self, kill: Any) -> str:
        """Kill the primary with ``kill``, and promote the standby; return the primary's name.

        First wait until the standby has all data. Return when a new standby has it too.
        """
        async with self._failing_over:
            await self._ask_primary(_SYNCHRONOUS)
            before = self.primary
            self.primary = next(name for name in NAMES if name != before)
            (self.folder / before / "standby.signal").unlink(missing_ok=True)
            kill(before)
            # `pg_promote` fails if the server is the primary already.
            await self._ask_primary(
                "SELECT CASE WHEN pg_is_in_recovery() THEN pg_promote(true, 10) ELSE true END"
            )
            await self.replicate()
            return before

    async def _ask_primary(self, statement: str) -> None:
        """Execute ``statement`` at the primary until it succeeds, and returns no 0 or false."""
        import asyncpg  # type: ignore[import-untyped]

        port = self.ports[self.primary]
        failures = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError)
        async with asyncio.timeout(MAX_WAIT_SECONDS):
            while True:
                try:
                    connection = await asyncpg.connect(
                        host=self.host.address, port=port, user=USER, database="postgres", timeout=5
                    )
                    try:
                        found = await connection.fetchval(statement)
                    finally:
                        await connection.close()
                    if found is None or found:
                        return
                except (*failures, asyncpg.InternalClientError, TimeoutError):
                    pass
                await asyncio.sleep(_POLL_INTERVAL_SECONDS)

    async def _run(self, program: str, *words: str) -> None:
        child = await self._start(program, program, *words)
        if code := await child.wait():
            raise RuntimeError(f"{program} ended with {code}\n{child.tail()}")

    async def _start(self, name: str, program: str, *words: str) -> Child:
        programs = _programs()
        assert programs is not None
        as_user = ("setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups")
        return await children.start(
            name,
            self.host.command([*as_user, str(programs / program), *words]),
            environment={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
            log=self.folder / f"{name}.log",
            folder=self.folder,
        )
