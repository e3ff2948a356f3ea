"""Testbed of the benchmarks: a temporary home, a request-counting server, and workers on it."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from benchmarks import counting_server, usage
from daybook import repository
from daybook.agents import documents
from daybook.home import CLIENT_CREDENTIAL, Home
from daybook.operations import server
from daybook.operations import worker as daybook_worker
from daybook.operations.prefect_selection import SelectedPrefect
from daybook.prefect import work_pool
from daybook.processes import children
from daybook.processes.children import Child

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

POLL_INTERVAL_SECONDS = 0.05
EXIT_TIMEOUT_SECONDS = 60.0
"""Time in which the processes of a finished run have to exit."""
START_TIMEOUT_SECONDS = 90.0
"""Time in which a worker has to start."""
SPAWN_MESSAGE = "the worker spawns its children:"
"""What Daybook's worker logs if it cannot fork; the benchmark must not measure that fallback."""


@contextmanager
def temporary_home() -> Iterator[Home]:
    """Create a temporary home; select it and its Prefect in this process's environment.

    Enter it before Prefect is imported, because Prefect reads its environment once.
    """
    assert "prefect" not in sys.modules
    secrets = ("_API_KEY", "_AUTH_TOKEN", "_BASE_URL")  # no model is called: the agent is offline
    for name in list(os.environ):
        if name.startswith(("PREFECT_", "DAYBOOK_")) or name.endswith(secrets):
            del os.environ[name]
    # No `TemporaryDirectory`, which a fork of this process would delete when it exits.
    folder = Path(tempfile.mkdtemp(prefix="daybook-bench-"))
    try:
        home = Home(folder / "home").make()
        os.environ |= {
            "DAYBOOK_HOME": str(home.path),
            "PREFECT_HOME": str(home.prefect),
            "PREFECT_API_URL": server.api_url(server.free_port(0)),
            CLIENT_CREDENTIAL: home.ensure_credential(),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
        }
        yield home
    finally:
        shutil.rmtree(folder)


@dataclass(frozen=True)
class Cost:
    """Resources used in ``seconds``.

    ``worker``, ``server`` and ``others`` are seconds of CPU: of a worker with its processes, of the
    server, and of everything else on this machine. ``paths`` are the requests by path, ``busy`` is
    the number of answers 503.
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

    def since(self, before: Cost) -> Cost:
        return Cost(
            self.seconds - before.seconds,
            self.worker - before.worker,
            self.server - before.server,
            self.others - before.others,
            {path: count - before.paths.get(path, 0) for path, count in self.paths.items()},
            self.busy - before.busy,
        )

    def per_run(self, runs: int, idle: Cost) -> Cost:
        """Return the cost of one of ``runs`` runs, less the idle cost of the same time."""
        share = self.seconds / idle.seconds
        return Cost(
            self.seconds / runs,
            max(0.0, self.worker - share * idle.worker) / runs,
            max(0.0, self.server - share * idle.server) / runs,
            self.others / runs,
            {p: (n - share * idle.paths.get(p, 0)) / runs for p, n in self.paths.items()},
            self.busy,
        )


@dataclass(frozen=True)
class Worker:
    """A started worker; ``own_pids`` are its processes while nothing runs."""

    child: Child
    own_pids: frozenset[int]

    @property
    def pid(self) -> int:
        return self.child.pid

    def check_alive(self) -> None:
        if self.child.exit_code is not None:
            raise RuntimeError(f"the worker has exited: {self.child.tail()}")

    async def wait_idle(self) -> None:
        """Wait until the processes of all runs have exited."""
        async with asyncio.timeout(EXIT_TIMEOUT_SECONDS):
            while usage.process_tree(self.pid) - self.own_pids:
                self.check_alive()
                await asyncio.sleep(POLL_INTERVAL_SECONDS)


async def prepare(client: PrefectClient) -> None:
    """Register the block types, and create the work pool and the default agent, like `up`."""
    await repository.load_entry_point("blocks/__init__.py").register(client)
    await work_pool.ensure(client)
    await documents.ensure_default(client)


@dataclass(frozen=True)
class Testbed:
    """A running server, and a client whose requests are not counted."""

    home: Home
    prefect: SelectedPrefect
    server: Child
    client: PrefectClient

    async def prepare(self) -> None:
        await prepare(self.client)

    def worker_command(self, name: str, limit: int) -> tuple[list[str], dict[str, str]]:
        """Return command and environment of a Daybook worker with ``limit`` concurrent runs."""
        environment = daybook_worker.environment(self.home, self.prefect)
        environment["DAYBOOK_MAX_CONCURRENT"] = str(limit)
        return daybook_worker.command(self.home, limit=limit, name=name), environment

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
            grace=daybook_worker.GRACE_SECONDS,
        )
        try:
            async with asyncio.timeout(START_TIMEOUT_SECONDS):
                while "started!" not in child.tail():
                    if child.exit_code is not None:
                        raise RuntimeError(f"the worker did not start: {child.tail()}")
                    await asyncio.sleep(POLL_INTERVAL_SECONDS)
            if SPAWN_MESSAGE in child.tail():
                raise RuntimeError(f"the worker cannot fork its runs: {child.tail()}")
            await asyncio.sleep(2.0)  # wait for its start-up work
            yield Worker(child, frozenset(usage.process_tree(child.pid)))
        except BaseException:
            print(child.tail(), file=sys.stderr)
            raise
        finally:
            await child.terminate()

    async def counts(self) -> dict[str, Any]:
        """Return the server's request counts."""
        async with httpx.AsyncClient(trust_env=False) as client:
            address = f"{self.prefect.ui_url}{counting_server.COUNTS_PATH}"
            counts: dict[str, Any] = (await client.get(address)).json()
        return counts

    async def cost(self, worker: Worker) -> Cost:
        """Return the total cost so far."""
        counts = await self.counts()
        loop = asyncio.get_running_loop()
        worker_cpu, server_cpu = usage.cpu(worker.pid), usage.cpu(self.server.pid)
        others = usage.machine_cpu() - worker_cpu - server_cpu - time.process_time()
        return Cost(loop.time(), worker_cpu, server_cpu, others, counts["paths"], counts["busy"])

    async def idle_cost(self, worker: Worker, seconds: float) -> Cost:
        """Return the cost of ``seconds`` in which nothing runs."""
        before = await self.cost(worker)
        await asyncio.sleep(seconds)
        return (await self.cost(worker)).since(before)


@asynccontextmanager
async def start(home: Home) -> AsyncIterator[Testbed]:
    """Start the server; stop it at the end."""
    from prefect.client.orchestration import get_client

    api_url = os.environ["PREFECT_API_URL"]
    port = httpx.URL(api_url).port
    assert port is not None
    path = os.pathsep.join([str(repository.root()), *filter(None, [os.environ.get("PYTHONPATH")])])
    child = await children.start(  # as `server.start` does
        "server",
        [sys.executable, "-m", "benchmarks.counting_server", "--port", str(port)],
        environment={**server.environment(home, port), "PYTHONPATH": path},
        log=home.logs / "server.log",
        folder=home.path,
    )
    settings: dict[str, Any] = {"headers": {counting_server.MARK_HEADER: "1"}}
    try:
        await server.wait_until_healthy(api_url, child=child)
        async with get_client(httpx_settings=settings) as client:
            # Without the child: the workers then inherit the credential from this process. The home
            # has no `up.json`, without which they would not send the home's credential.
            prefect = SelectedPrefect(api_url, server.ui_url(port))
            yield Testbed(home, prefect, child, client)
    finally:
        await child.terminate()
