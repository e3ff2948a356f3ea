"""Temporary home and one request-counting server of ours, on which workers are measured."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from benchmarks import counted, usage
from daybook import repository
from daybook.home import CLIENT_CREDENTIAL, Home
from daybook.operations import server, worker
from daybook.operations.prefect_selection import SelectedPrefect
from daybook.processes import children
from daybook.processes.children import Child

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

QUIET_WITHIN = 60.0
"""Seconds in which the processes of an ended run have to exit."""
LOOK = 0.05
SPAWNING = "the worker spawns its children:"
"""Our worker's log text if it cannot fork; the benchmark must not measure that fallback."""


@contextmanager
def home() -> Iterator[Home]:
    """Create a temporary home; this process's environment then names it and its Prefect.

    Enter it before Prefect is imported, because Prefect reads its environment once.
    """
    assert "prefect" not in sys.modules
    secrets = ("_API_KEY", "_AUTH_TOKEN", "_BASE_URL")  # no model is called: the agent is offline
    for name in list(os.environ):
        if name.startswith(("PREFECT_", "DAYBOOK_")) or name.endswith(secrets):
            del os.environ[name]
    with tempfile.TemporaryDirectory(prefix="daybook-bench-") as folder:
        here = Home(Path(folder) / "home").make()
        os.environ |= {
            "DAYBOOK_HOME": str(here.path),
            "PREFECT_HOME": str(here.prefect),
            "PREFECT_API_URL": server.api_url(server.free_port(0)),
            CLIENT_CREDENTIAL: here.ensure_credential(),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
        }
        yield here


@dataclass(frozen=True)
class Spent:
    """Resources used in ``seconds``.

    Seconds of CPU by a worker with its processes, by the server, and by everything else on this
    machine; the requests by path; the number of 503 answers.
    """

    seconds: float
    worker: float
    server: float
    others: float
    paths: Mapping[str, float]
    busy: int

    @property
    def requests(self) -> float:
        return sum(self.paths.values())

    def since(self, before: Spent) -> Spent:
        return Spent(
            self.seconds - before.seconds,
            self.worker - before.worker,
            self.server - before.server,
            self.others - before.others,
            {path: count - before.paths.get(path, 0) for path, count in self.paths.items()},
            self.busy - before.busy,
        )

    def per_run(self, runs: int, idle: Spent) -> Spent:
        """Return the cost of one of ``runs`` runs, less what is spent idle in the same time."""
        share = self.seconds / idle.seconds
        return Spent(
            self.seconds / runs,
            max(0.0, self.worker - share * idle.worker) / runs,
            max(0.0, self.server - share * idle.server) / runs,
            self.others / runs,
            {p: (n - share * idle.paths.get(p, 0)) / runs for p, n in self.paths.items()},
            self.busy,
        )


@dataclass(frozen=True)
class Worker:
    """A started worker; ``itself`` are its processes while no run is at work."""

    child: Child
    itself: frozenset[int]

    @property
    def pid(self) -> int:
        return self.child.pid

    def check(self) -> None:
        if self.child.exit_code is not None:
            raise RuntimeError(f"the worker has ended: {self.child.tail()}")

    async def quiet(self) -> None:
        """Wait until no process of a run is left."""
        async with asyncio.timeout(QUIET_WITHIN):
            while usage.family(self.pid) - self.itself:
                self.check()
                await asyncio.sleep(LOOK)


@dataclass(frozen=True)
class Place:
    """A running server, and a client whose requests are not counted."""

    home: Home
    here: SelectedPrefect
    server: Child
    client: PrefectClient

    @asynccontextmanager
    async def worker(
        self, command: Sequence[str], environment: Mapping[str, str]
    ) -> AsyncIterator[Worker]:
        """Yield a worker once it accepts runs; stop it at the end."""
        log = self.home.logs / "worker.log"
        child = await children.start(
            "worker",
            command,
            environment=environment,
            log=log,
            folder=self.home.path,
            grace=worker.GRACE_SECONDS,
        )
        try:
            async with asyncio.timeout(90.0):
                while "started!" not in child.tail():
                    if child.exit_code is not None:
                        raise RuntimeError(f"the worker did not start: {child.tail()}")
                    await asyncio.sleep(LOOK)
            if SPAWNING in child.tail():
                raise RuntimeError(f"the worker's warm way is not to be had: {child.tail()}")
            await asyncio.sleep(2.0)  # wait for its start-up work
            yield Worker(child, frozenset(usage.family(child.pid)))
        except BaseException:
            print(child.tail(), file=sys.stderr)
            raise
        finally:
            await child.terminate()

    async def spent(self, of: Worker) -> Spent:
        """Return everything that was spent so far."""
        async with httpx.AsyncClient(trust_env=False) as client:
            counts = (await client.get(f"{self.here.ui_url}{counted.COUNTS}")).json()
        loop = asyncio.get_running_loop()
        used, served = usage.cpu(of.pid), usage.cpu(self.server.pid)
        others = usage.machine() - used - served - time.process_time()
        return Spent(loop.time(), used, served, others, counts["paths"], counts["busy"])

    async def spent_idle(self, of: Worker, seconds: float) -> Spent:
        """Return what is spent in ``seconds`` in which nothing runs."""
        before = await self.spent(of)
        await asyncio.sleep(seconds)
        return (await self.spent(of)).since(before)


@asynccontextmanager
async def opened(home: Home) -> AsyncIterator[Place]:
    """Start the server; stop it at the end."""
    from prefect.client.orchestration import get_client

    api_url = os.environ["PREFECT_API_URL"]
    port = httpx.URL(api_url).port
    assert port is not None
    path = os.pathsep.join([str(repository.root()), *filter(None, [os.environ.get("PYTHONPATH")])])
    child = await children.start(  # as `server.start` does
        "server",
        [sys.executable, "-m", "benchmarks.counted", "--port", str(port)],
        environment={**server.environment(home, port), "PYTHONPATH": path},
        log=home.logs / "server.log",
        folder=home.path,
    )
    settings: dict[str, Any] = {"headers": {counted.MARK: "1"}}
    try:
        await server.wait_until_healthy(api_url, child=child)
        async with get_client(httpx_settings=settings) as client:
            here = SelectedPrefect(api_url, server.ui_url(port), child)
            yield Place(home, here, child, client)
    finally:
        await child.terminate()
