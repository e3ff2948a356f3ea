"""Real workers: start and stop them, and list their living processes."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from prefect.client.orchestration import PrefectClient

from daybook.home import Home
from daybook.operations import worker
from daybook.operations.prefect_selection import SelectedPrefect
from daybook.prefect import work_pool
from daybook.processes import children, proc
from tests.gate import Gate, opened
from tests.timings import SHORT
from tests.waiting import becomes_true
from tests.world import processes
from tests.world.prefect import forget_workers
from tests.world.worker import Worker

# At each flow run Prefect reads the result storage through a client that it does not close.
PREFECT_LEAVES_A_SOCKET = [
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
    pytest.mark.filterwarnings(
        "ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"
    ),
]

JUDGED = 2 * SHORT.run_lease.total_seconds() + 90.0
"""Seconds within which a run of a dead holder ends, if the workers have `SHORT` times: a lease, as
long again to judge it, and a grace period, a cycle of the keeper and a start on a busy machine.
"""
SEEN = 20.0
"""Seconds within which a living worker has recorded the end of a process on both sides. This does
not depend on leases: it is the shortest time between two renewals.
"""
CANCELLED = 9.0
"""Seconds within which all processes of a cancelled run are gone; SIGKILL comes only after that."""


@dataclass
class Workers:
    """The workers of one world; all their files are in the folder ``root``."""

    client: PrefectClient
    home: Home
    root: Path
    selected_prefect: SelectedPrefect
    variables: dict[str, str]
    """Environment variables of its processes in addition to this process's."""
    all: list[Worker] = field(default_factory=list)
    apart: set[int] = field(default_factory=set)
    """Processes that belong to no worker although they have the test's folder in them."""
    gates: list[Gate] = field(default_factory=list)
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def begin(
        self,
        *,
        most: int | None = None,
        queues: Sequence[str] = (),
        limit: int | None = None,
        name: str | None = None,
        by_prefect: bool = False,
        api_url: str = "",
    ) -> Worker:
        """Start a worker (``by_prefect``: `prefect worker start`); wait until it accepts runs."""
        name = name or f"{self.root.name}-{len(self.all) + 1}"
        selected = SelectedPrefect(
            api_url or self.selected_prefect.api_url, self.selected_prefect.ui_url
        )
        variables = worker.environment(self.home, selected) | self.variables
        if most is not None:
            variables["DAYBOOK_MAX_CONCURRENT"] = str(most)
        command = worker.command(self.home, queues=queues, name=name, limit=limit)
        if by_prefect:
            words = f"worker start --pool {worker.POOL} --type {work_pool.POOL_TYPE} --name {name}"
            command = [sys.executable, "-m", "prefect", *words.split()]
            command += [f"--work-queue={each}" for each in queues]
        log = self.home.logs / f"worker-{len(self.all) + 1}.log"
        child = await children.start(
            "worker", command, environment=variables, log=log, folder=self.root
        )
        started = Worker(child)
        self.all.append(started)

        async def accepts_runs() -> bool:
            assert child.exit_code is None, child.tail()
            return "started!" in child.tail(10_000)

        assert await becomes_true(accepts_runs, 90.0), child.tail()
        return started

    async def gate(self) -> Gate:
        """Return a proxy to Prefect for a worker; the test can close it, and its end stops it."""
        gate = await self.stack.enter_async_context(opened(self.selected_prefect.api_url))
        self.gates.append(gate)
        return gate

    # --- living processes

    def living(self) -> dict[int, str]:
        """Return the command line of every living process of this world, by pid."""
        return processes.living(self.root, self.apart)

    def at_work(self) -> dict[int, str]:
        """Return the same without the workers and their own helper processes."""
        living, pids = self.living(), {each.pid for each in self.all}
        pids |= {each.pid for each in proc.living_processes().values() if each.parent in pids}
        return {pid: line for pid, line in living.items() if pid not in pids}

    async def idle(self, within: float) -> None:
        """Wait until no process of a run lives."""

        async def it_is() -> bool:
            return not self.at_work()

        if not await becomes_true(it_is, within):
            raise AssertionError(f"after {within} s there lives {self.at_work()}\n{self.logs()}")

    async def nobody(self, within: float) -> None:
        """Wait until no process lives, including workers."""

        async def it_is() -> bool:
            return not self.living()

        if not await becomes_true(it_is, within):
            raise AssertionError(f"after {within} s there lives {self.living()}\n{self.logs()}")

    def logs(self) -> str:
        return "\n".join(f"{each.child.log.name}:\n{each.child.tail(40)}" for each in self.all)

    # --- the end

    async def close(self) -> None:
        """Stop them; raise AssertionError if a process outlives its worker."""
        async with self.stack:
            for each in self.all:
                await self._stop(each)
            if self.all:
                await forget_workers(self.client)
                await self._expect_nobody()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()  # collect here, not in another test
        gc.freeze()  # the next collection skips what survived this one

    async def _stop(self, started: Worker) -> None:
        while started.child.exit_code is None:  # the second request stops it faster
            with suppress(ProcessLookupError):
                os.kill(started.pid, signal.SIGCONT)
                os.kill(started.pid, signal.SIGTERM)
            with suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await started.child.wait()

    async def _expect_nobody(self) -> None:
        try:
            await self.nobody(within=15.0)
        finally:
            for pid in self.living():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
