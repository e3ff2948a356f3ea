"""Prefect as `deployments/fleet` describes it: API replicas and services, HAProxy, and Redis.

::

    workers ──► balancer ──► api-1, api-2 ──► PostgreSQL
                                  services ──► Redis

Redis keeps nothing on disk, so a kill empties it.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from chaos.hosts import DATABASE_PORT, THIS_MACHINE, Host
from chaos.standby import Databases
from daybook.home import CLIENT_CREDENTIAL, SERVER_CREDENTIAL, Home, without_credentials
from daybook.operations import server
from daybook.processes import children
from daybook.processes.children import Child

FLEET = Path(__file__).parents[1] / "deployments" / "fleet"
COUNT = 2
"""Number of API replicas, as `haproxy.cfg` has."""
_PREFECT = (sys.executable, "-m", "daybook.operations.prefect_server")


def missing() -> str:
    """Return the program that replicas need and this machine does not have; "" if none."""
    return next((each for each in ("haproxy", "redis-server") if not shutil.which(each)), "")


def fleet_settings() -> dict[str, str]:
    """Return the settings of `deployments/fleet/prefect.env`."""
    lines = (FLEET / "prefect.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line[:1] not in ("", "#"))


@dataclass
class Replicas:
    """The processes of Prefect on ``host`` with a database at ``database``.

    The balancer is at ``port``, and with ``databases`` also at `DATABASE_PORT`, for their primary.
    """

    home: Home
    port: int
    database: str
    host: Host = THIS_MACHINE
    databases: Databases | None = None
    _redis: int = field(default_factory=lambda: server.free_port(0))
    _ports: list[int] = field(default_factory=lambda: [server.free_port(0) for _ in range(COUNT)])

    async def migrate(self) -> None:
        """Migrate the database, which no replica does. Raise `RuntimeError` if this fails."""
        child = await self.start("migration", [*_PREFECT, "database", "upgrade", "--yes"])
        if code := await child.wait():
            raise RuntimeError(f"the migration ended with {code}\n{child.tail()}")

    def bases(self) -> Iterator[tuple[str, list[str]]]:
        """Yield the names and commands of the processes that Prefect needs."""
        memory_only = ("--save", "", "--appendonly", "no")
        yield (
            "redis",
            [
                *("redis-server", "--bind", "127.0.0.1", "--port", str(self._redis)),
                *(*memory_only, "--dir", str(self.home.path)),
            ],
        )
        files = ["haproxy.cfg", *(["haproxy-postgresql.cfg"] if self.databases else [])]
        yield (
            "balancer",
            ["haproxy", "-db", *(word for each in files for word in ("-f", str(FLEET / each)))],
        )

    def processes(self) -> Iterator[tuple[str, list[str]]]:
        """Yield the names and commands of Prefect's processes, in the order of their starts."""
        for number, port in enumerate(self._ports, 1):
            address = ("--host", server.HOST, "--port", str(port))
            yield f"api-{number}", [*_PREFECT, "start", "--no-services", "--no-ui", *address]
        yield "services", [*_PREFECT, "services", "start"]

    async def start(self, name: str, command: list[str]) -> Child:
        """Start one of the processes; its log is in the home."""
        return await children.start(
            name,
            self.host.command(command),
            environment=self._environment(name),
            log=self.home.logs / f"{name}.log",
            folder=self.home.path,
        )

    async def flush(self) -> None:
        """Empty Redis; do nothing if it does not run."""
        port = ("-p", str(self._redis))
        await (await self.start("flush", ["redis-cli", *port, "flushall"])).wait()

    def _environment(self, name: str) -> dict[str, str]:
        settings = fleet_settings()
        redis = f"redis://127.0.0.1:{self._redis}"
        addresses = {
            f"FLEET_API_{number}": f"{server.HOST}:{port}"
            for number, port in enumerate(self._ports, 1)
        }
        if self.databases is not None:
            addresses["FLEET_POSTGRESQL"] = f"{self.host.address}:{DATABASE_PORT}"
            for number, address in enumerate(self.databases.addresses().values(), 1):
                addresses[f"FLEET_POSTGRESQL_{number}"] = address
        if name == "services":
            settings["PREFECT_SERVER_DOCKET_NAME"] = "prefect-services"
        return {
            **without_credentials(os.environ),
            **settings,
            **addresses,
            "FLEET_PREFECT": f"{self.host.address}:{self.port}",
            "PREFECT_HOME": str(self.home.prefect),
            "PREFECT_API_DATABASE_CONNECTION_URL": self.database,
            "PREFECT_REDIS_MESSAGING_URL": f"{redis}/0",
            "PREFECT_SERVER_DOCKET_URL": f"{redis}/1",
            SERVER_CREDENTIAL: os.environ[CLIENT_CREDENTIAL],
        }
