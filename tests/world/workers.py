"""Real workers and executions: start, kill and stop them, and list their living processes.

Living processes are found by the test's folder, which is in the environment or the command line of
all child processes of its workers. The product's own search for a process family is not used.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sqlite3
import sys
import warnings
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, closing, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from inspect import isawaitable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from uuid import UUID

import pytest
from prefect.client.schemas.objects import FlowRun, State
from prefect.exceptions import Abort
from prefect.flow_engine import run_flow
from prefect.flows import Flow, load_flow_from_entrypoint
from prefect.states import Scheduled

from daybook.clock import SYSTEM_CLOCK
from daybook.operations import worker
from daybook.operations.prefect_selection import SelectedPrefect
from daybook.processes import children, proc
from daybook.processes.children import Child
from daybook.processes.proc import Process
from tests.gate import Gate, opened
from tests.timings import SHORT
from tests.world import so
from tests.world.prefect import forget_workers

if TYPE_CHECKING:
    from tests.world import World

# At each flow run Prefect reads the result storage through a client that it does not close.
PREFECT_LEAVES_A_SOCKET = [
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
    pytest.mark.filterwarnings(
        "ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"
    ),
]

REPOSITORY = Path(__file__).parents[2]

JUDGED = 2 * SHORT.run_lease.total_seconds() + 30.0
"""Seconds within which a run of a dead holder ends, if the workers have `SHORT` times: a lease, as
long again to judge it, and a grace period, a keeper pass and a start on a busy machine.
"""
SEEN = 20.0
"""Seconds within which a living worker has recorded the end of a process on both sides. This does
not depend on leases: it is the shortest time between two renewals.
"""
CANCELLED = 9.0
"""Seconds within which all processes of a cancelled run are gone; SIGKILL comes only after that."""


def alive(pid: int) -> bool:
    """Return whether the process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):  # the second one: ended since it was opened
        return False


async def stand_still(pid: int, free: Callable[[], bool]) -> None:
    """Stop the process with SIGSTOP while it holds no ledger lock that others would wait for.

    ``free`` returns, in a thread, whether no process holds it (`sqlite_is_free`).
    """
    os.kill(pid, signal.SIGSTOP)
    while not await asyncio.to_thread(free):
        os.kill(pid, signal.SIGCONT)
        await SYSTEM_CLOCK.wait_until(
            SYSTEM_CLOCK.now() + timedelta(seconds=0.05)
        )  # time to release the lock
        os.kill(pid, signal.SIGSTOP)


def sqlite_is_free(address: str) -> bool:
    """Return whether no process holds the write lock of the SQLite ledger at this address."""
    path = urlsplit(address).path
    with closing(sqlite3.connect(path, timeout=0.2, isolation_level=None)) as ledger:
        try:
            ledger.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return False
        ledger.execute("ROLLBACK")
    return True


def pending(pid: int) -> list[int]:
    """Return the masks of the signals that were sent to the process but are not delivered yet.

    An ended process has none.
    """
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [int(line.split()[1], 16) for line in lines if line.startswith(("SigPnd", "ShdPnd"))]


class Execution:
    """A process that executes one flow run, as Prefect's process worker starts it."""

    def __init__(self, child: asyncio.subprocess.Process) -> None:
        self.child = child

    async def sent(self, number: signal.Signals) -> None:
        """Send it a signal while its main thread sleeps.

        Prefect raises an exception where the signal interrupts the process. In a step of a task,
        asyncio stores it as that task's exception: then only a kill ends the process.
        """
        async with asyncio.timeout(60):
            before = ""
            while (now := self._woken()) != before:
                before = now
                await SYSTEM_CLOCK.wait_until(SYSTEM_CLOCK.now() + timedelta(milliseconds=50))
        with suppress(ProcessLookupError):
            self.child.send_signal(number)

    def _woken(self) -> str:
        """Return its main thread's counts of context switches so far."""
        try:
            status = Path(f"/proc/{self.child.pid}/task/{self.child.pid}/status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return ""  # it has ended by itself
        return "".join(line for line in status.splitlines() if "ctxt_switches" in line)

    async def wait_for_exit(self) -> tuple[int, str]:
        """Wait for its end; return its exit code and its output."""
        async with asyncio.timeout(90):
            output, _ = await self.child.communicate()
        return self.child.returncode or 0, output.decode()


@dataclass(eq=False)
class Worker:
    """A worker's process."""

    child: Child

    @property
    def pid(self) -> int:
        return self.child.pid

    @property
    def parent(self) -> Process:
        """Return the process that starts its runs."""
        (found,) = [each for each in proc.living_processes().values() if each.parent == self.pid]
        return found

    def heads(self) -> list[Process]:
        """Return the first process of each current run."""
        parent = self.parent.pid
        return [each for each in proc.living_processes().values() if each.parent == parent]

    async def send_signal(self, number: signal.Signals) -> None:
        """Send a signal and wait until it is delivered, so that the next one counts separately."""
        os.kill(self.pid, number)
        mask = 1 << (number - 1)

        async def taken() -> bool:
            return not any(each & mask for each in pending(self.pid))

        assert await so(taken, 10.0)

    async def wait_for_exit(self, within: float) -> int:
        """Wait for its end; return its exit code."""
        try:
            async with asyncio.timeout(within):
                return await self.child.wait()
        except TimeoutError:
            raise AssertionError(
                f"the worker did not end in {within} s\n{self.child.tail()}"
            ) from None


@dataclass
class Workers:
    """The workers and executions of one world; all their files are in the folder ``root``."""

    world: World
    root: Path
    selected_prefect: SelectedPrefect
    variables: dict[str, str]
    """Environment variables of its processes in addition to this process's."""
    all: list[Worker] = field(default_factory=list)
    executions: list[Execution] = field(default_factory=list)
    deployments: set[UUID] = field(default_factory=set)
    apart: set[int] = field(default_factory=set)
    """Processes that belong to no worker although they have the test's folder in them."""
    gates: list[Gate] = field(default_factory=list)
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    @property
    def elsewhere(self) -> Path:
        """Return the folder in which executions and foreign flows run, outside the repository."""
        return self.root / "elsewhere"

    async def begin(
        self,
        *,
        most: int | None = None,
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
        variables = worker.environment(self.world.home, selected) | self.variables
        if most is not None:
            variables["DAYBOOK_MAX_CONCURRENT"] = str(most)
        command = worker.command(self.world.home, name=name, limit=limit)
        if by_prefect:
            words = f"worker start --pool {worker.POOL} --type {worker.POOL_TYPE} --name {name}"
            command = [sys.executable, "-m", "prefect", *words.split()]
        log = self.world.home.logs / f"worker-{len(self.all) + 1}.log"
        child = await children.start(
            "worker", command, environment=variables, log=log, folder=self.root
        )
        begun = Worker(child)
        self.all.append(begun)

        async def started() -> bool:
            assert child.exit_code is None, child.tail()
            return "started!" in child.tail(10_000)

        assert await so(started, 90.0), child.tail()
        return begun

    async def gate(self) -> Gate:
        """Return a proxy to Prefect for a worker; the test can close it, and its end stops it."""
        gate = await self.stack.enter_async_context(opened(self.selected_prefect.api_url))
        self.gates.append(gate)
        return gate

    async def execute(
        self, run: FlowRun, *, bare: bool = False, variables: Mapping[str, str] | None = None
    ) -> Execution:
        """Execute the flow run with the process worker's command, in a folder elsewhere.

        ``bare`` omits the supervisor: only the process in which the flow runs.
        """
        arguments = ["prefect.engine", str(run.id)] if bare else ["prefect", "flow-run", "execute"]
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            *arguments,
            *([] if bare else [str(run.id)]),
            cwd=self.elsewhere,
            env={**os.environ, **(variables or {})},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        execution = Execution(child)
        self.executions.append(execution)
        return execution

    async def executed(self, run: FlowRun) -> State[Any]:
        """Execute the run to its end; return its final state in Prefect."""
        code, output = await (await self.execute(run, bare=True)).wait_for_exit()
        state = await self.world.prefect.state(run)
        assert code == 0 or not state.is_completed(), output
        return state

    async def executed_here(self, run: FlowRun) -> State[Any]:
        """Execute the run in this process, as `prefect.engine` does; return its final state."""
        deployment = await self.world.client.read_deployment(run.deployment_id or "")
        entrypoint = str(REPOSITORY / str(deployment.entrypoint))
        flow: Flow[Any, Any] = load_flow_from_entrypoint(entrypoint)
        with suppress(Abort):  # it has set its run back
            running = run_flow(flow, flow_run=run, return_type="state")
            assert isawaitable(running)
            await running
        return await self.world.prefect.state(run)

    # --- living processes

    def living(self) -> dict[int, str]:
        """Return the command line of every living process that was started here, by pid."""
        mark, found = f"{self.root}/".encode(), {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) in {os.getpid(), *self.apart}:
                continue
            with suppress(OSError):
                line = (entry / "cmdline").read_bytes()
                if mark in line or mark in (entry / "environ").read_bytes():
                    found[int(entry.name)] = line.replace(b"\0", b" ").decode(errors="replace")
        return found

    def at_work(self) -> dict[int, str]:
        """Return the same without the workers and their own helper processes."""
        living, pids = self.living(), {each.pid for each in self.all}
        pids |= {each.pid for each in proc.living_processes().values() if each.parent in pids}
        return {pid: line for pid, line in living.items() if pid not in pids}

    async def idle(self, within: float) -> None:
        """Wait until no process of a run lives."""

        async def it_is() -> bool:
            return not self.at_work()

        if not await so(it_is, within):
            raise AssertionError(f"after {within} s there lives {self.at_work()}\n{self.logs()}")

    async def nobody(self, within: float) -> None:
        """Wait until no process lives, including workers."""

        async def it_is() -> bool:
            return not self.living()

        if not await so(it_is, within):
            raise AssertionError(f"after {within} s there lives {self.living()}\n{self.logs()}")

    def logs(self) -> str:
        return "\n".join(f"{each.child.log.name}:\n{each.child.tail(40)}" for each in self.all)

    # --- flows that are not Daybook's

    async def foreign(self, program: str, **given: Any) -> UUID:
        """Create the deployment `foreign` in our pool, for a flow that is not ours."""
        (self.elsewhere / "foreign.py").write_text(program)
        client, folder = self.world.client, str(self.elsewhere)
        deployment = await client.create_deployment(
            await client.create_flow_from_name("foreign"),
            name=self.root.name,
            work_pool_name=worker.POOL,
            entrypoint="foreign.py:foreign",
            pull_steps=[{"prefect.deployments.steps.set_working_directory": {"directory": folder}}],
            **given,
        )
        self.deployments.add(deployment)
        return deployment

    async def noted(self, name: str, within: float = SEEN) -> list[str]:
        """Wait for a line that such a flow wrote into the file ``name``; return all words."""
        path = self.elsewhere / name

        async def there() -> bool:
            return path.exists() and path.read_text().endswith("\n")

        assert await so(there, within), self.logs()
        return path.read_text().split()

    async def run_foreign(self, deployment: UUID, **parameters: Any) -> FlowRun:
        return await self.world.client.create_flow_run_from_deployment(
            deployment, parameters=parameters, state=Scheduled()
        )

    # --- the end

    async def close(self) -> None:
        """Stop them; raise AssertionError if a process outlives its worker."""
        for execution in self.executions:
            if execution.child.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(execution.child.pid, signal.SIGKILL)
                await execution.child.communicate()
        for each in self.all:
            while each.child.exit_code is None:  # the second request stops it faster
                with suppress(ProcessLookupError):
                    os.kill(each.pid, signal.SIGCONT)
                    os.kill(each.pid, signal.SIGTERM)
                with suppress(TimeoutError):
                    async with asyncio.timeout(1.0):
                        await each.child.wait()
        for deployment in self.deployments:
            await self.world.client.delete_deployment(deployment)
        if not self.all:
            return
        await forget_workers(self.world.client)
        try:
            await self.nobody(within=15.0)
        finally:
            for pid in self.living():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


@asynccontextmanager
async def of(
    world: World, root: Path, selected: SelectedPrefect, variables: dict[str, str]
) -> AsyncIterator[Workers]:
    """Yield the workers of ``world``, initially none."""
    workers = Workers(world, root, selected, variables)
    async with workers.stack:
        try:
            yield workers
        finally:
            await workers.close()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()  # collect here, not in another test
    gc.freeze()  # the next collection skips what survived this one
