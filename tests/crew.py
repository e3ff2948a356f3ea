"""Real workers at a floor: begun, killed, stopped; what both sides say of a run, and who lives.

What lives is found by the test's folder, which stands in the environment or the command line of
all that its workers begin, and not by the program's own way of finding a family.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, closing, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from prefect.client.schemas.objects import FlowRun
from prefect.states import Cancelling, Scheduled
from sqlmodel import col, select

from daybook.clock import SYSTEM
from daybook.host import children, processes, worker
from daybook.host.children import Child
from daybook.host.prefect_here import PrefectHere
from daybook.host.processes import Process
from daybook.ledger.jobs import StoredJob
from daybook.ledger.tables import AttemptRow, RunRow
from daybook.timing import TIMING, Timing
from tests.floor import Floor, forget_workers, laid
from tests.gate import Gate, opened
from tests.timings import SHORT

JUDGED = 2 * SHORT.run_lease.total_seconds() + 30.0
"""Seconds within which a run whose holder is gone has its end, where the workers have `SHORT`
times: a lease, as long again to judge it, and a grace, a pass and a start on a busy machine."""
SEEN = 20.0
"""Seconds within which a worker that lives has told both sides of the end of a process. No lease
has anything to do with that: it is the shortest time between two renewals."""
CANCELLED = 5.0
"""Seconds within which nothing is left of the processes of a cancelled run."""

AS_PREFECT_SHOWS_IT = {
    "succeeded": ("COMPLETED", "Completed"),
    "skipped": ("CANCELLED", "Skipped"),
    "failed": ("FAILED", "Failed"),
    "timed_out": ("FAILED", "TimedOut"),
    "cancelled": ("CANCELLED", "Cancelled"),
    "unknown": ("CRASHED", "Unknown"),
}

# Begins with what an agent is to do: says so, has its effect once, and answers when let go.
WORKS = 'had(); tell("acting"); heed(); print("done")\n'
FOR_EVER = 'had(); tell("acting"); forever()\n'
DEAF = 'signal.signal(signal.SIGTERM, signal.SIG_IGN); had(); tell("acting"); forever()\n'

Which = StoredJob | RunRow | str
"""A job that has one run, or a run."""


def _id(flow_run: FlowRun | str | None) -> UUID:
    return flow_run.id if isinstance(flow_run, FlowRun) else UUID(str(flow_run))


async def so(true: Callable[[], Awaitable[object]], within: float) -> bool:
    """Whether it becomes so within that many seconds."""
    with suppress(TimeoutError):
        async with asyncio.timeout(within):
            while not await true():
                await SYSTEM.wait_until(SYSTEM.now() + timedelta(seconds=0.05))
            return True
    return False


async def stand_still(pid: int, free: Callable[[], bool]) -> None:
    """SIGSTOP at a moment at which it holds no lock of the ledger: others would wait for it.

    ``free`` says, in a thread, whether nobody holds it (`sqlite_is_free`).
    """
    os.kill(pid, signal.SIGSTOP)
    while not await asyncio.to_thread(free):
        os.kill(pid, signal.SIGCONT)
        await SYSTEM.wait_until(SYSTEM.now() + timedelta(seconds=0.05))  # to give the lock back
        os.kill(pid, signal.SIGSTOP)


def sqlite_is_free(address: str) -> bool:
    """Whether nobody holds the write lock of the SQLite ledger at this address."""
    path = urlsplit(address).path
    with closing(sqlite3.connect(path, timeout=0.2, isolation_level=None)) as ledger:
        try:
            ledger.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return False
        ledger.execute("ROLLBACK")
    return True


def pending(pid: int) -> list[int]:
    """The signals that were sent to the process and that it has not taken yet, as masks.

    One that is gone has none.
    """
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [int(line.split()[1], 16) for line in lines if line.startswith(("SigPnd", "ShdPnd"))]


@dataclass(eq=False)
class Worker:
    """A worker's process."""

    child: Child

    @property
    def pid(self) -> int:
        return self.child.pid

    @property
    def zygote(self) -> Process:
        """The process that begins its runs."""
        (found,) = [each for each in processes.living().values() if each.parent == self.pid]
        return found

    def heads(self) -> list[Process]:
        """The processes that lead its runs, at work now."""
        zygote = self.zygote.pid
        return [each for each in processes.living().values() if each.parent == zygote]

    async def told(self, number: signal.Signals) -> None:
        """Tell it, and wait until the signal was taken: the next one is another."""
        os.kill(self.pid, number)
        mask = 1 << (number - 1)

        async def taken() -> bool:
            return not any(each & mask for each in pending(self.pid))

        assert await so(taken, 10.0)

    async def ends(self, within: float) -> int:
        """Wait for its end; its exit code."""
        try:
            async with asyncio.timeout(within):
                return await self.child.wait()
        except TimeoutError:
            raise AssertionError(
                f"the worker did not end in {within} s\n{self.child.tail()}"
            ) from None


@dataclass
class Crew:
    """The workers of one floor, whose files are all in the folder ``root``."""

    floor: Floor
    root: Path
    here: PrefectHere
    workers: list[Worker] = field(default_factory=list)
    deployments: list[UUID] = field(default_factory=list)
    apart: set[int] = field(default_factory=set)
    variables: dict[str, str] = field(default_factory=dict)
    """What its processes are told beside this one's environment."""
    gates: list[Gate] = field(default_factory=list)
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    # --- workers

    async def worker(
        self,
        *,
        most: int | None = None,
        limit: int | None = None,
        name: str | None = None,
        by_prefect: bool = False,
        api_url: str = "",
    ) -> Worker:
        """Begin one, and wait until it takes runs; ``by_prefect`` with `prefect worker start`."""
        name = name or f"{self.root.name}-{len(self.workers) + 1}"
        here = PrefectHere(api_url or self.here.api_url, self.here.ui_url)
        variables = worker.environment(self.floor.home, here) | self.variables
        if most is not None:
            variables["DAYBOOK_MAX_CONCURRENT"] = str(most)
        command = worker.command(self.floor.home, name=name, limit=limit)
        if by_prefect:
            words = f"worker start --pool {worker.POOL} --type {worker.POOL_TYPE} --name {name}"
            command = [sys.executable, "-m", "prefect", *words.split()]
        log = self.floor.home.logs / f"worker-{len(self.workers) + 1}.log"
        child = await children.start(
            "worker", command, environment=variables, log=log, folder=self.root
        )
        begun = Worker(child)
        self.workers.append(begun)

        async def started() -> bool:
            assert child.exit_code is None, child.tail()
            return "started!" in child.tail(10_000)

        assert await so(started, 90.0), child.tail()
        return begun

    async def gate(self) -> Gate:
        """A way to Prefect for a worker, which the test can close; it is there until the end."""
        gate = await self.stack.enter_async_context(opened(self.here.api_url))
        self.gates.append(gate)
        return gate

    # --- both sides

    async def row(self, which: Which) -> RunRow:
        """The run as the ledger has it; AssertionError when there is none."""
        found = await self._row(which)
        assert found is not None, self.logs()
        return found

    async def _row(self, which: Which) -> RunRow | None:
        wanted = select(RunRow)
        if isinstance(which, StoredJob):
            wanted = wanted.where(col(RunRow.job_id) == which.id)
        else:
            wanted = wanted.where(col(RunRow.id) == (which if isinstance(which, str) else which.id))
        async with self.floor.ledger.read() as session:
            found: RunRow | None = (await session.execute(wanted)).scalar_one_or_none()
        return found

    async def attempts(self, row: RunRow) -> list[AttemptRow]:
        tries = select(AttemptRow).where(col(AttemptRow.run_id) == row.id)
        async with self.floor.ledger.read() as session:
            found = await session.execute(tries.order_by(col(AttemptRow.number)))
            return list(found.scalars())

    async def shown(self, flow_run: FlowRun | str | None) -> tuple[str, str]:
        """Type and name of the state that Prefect shows."""
        state = (await self.floor.client.read_flow_run(_id(flow_run))).state
        assert state is not None
        return state.type.value, str(state.name)

    async def shows(self, flow_run: FlowRun | str | None, *wanted: str, within: float) -> None:
        """Wait until Prefect shows the state of that type and, where given, that name."""

        async def it_does() -> bool:
            return (await self.shown(flow_run))[: len(wanted)] == wanted

        if not await so(it_does, within):
            raise AssertionError(f"{await self.shown(flow_run)}, not {wanted}\n{self.logs()}")

    async def becomes(self, which: Which, status: str, within: float = 30.0) -> RunRow:
        """Wait until the ledger says so of the run."""

        async def it_is() -> bool:
            row = await self._row(which)
            return row is not None and row.status == status

        if not await so(it_is, within):
            raise AssertionError(f"{await self.floor.rows()}, not {status}\n{self.logs()}")
        return await self.row(which)

    async def ends(self, which: Which, status: str, within: float) -> RunRow:
        """Wait until both sides say that the run has ended so; the row."""
        since = SYSTEM.now()
        row = await self.becomes(which, status, within)
        left = within - (SYSTEM.now() - since).total_seconds()
        await self.shows(row.flow_run_id, *AS_PREFECT_SHOWS_IT[status], within=max(left, 5.0))
        assert row.finished_at is not None
        return row

    async def has_ended(self, which: Which, status: str) -> RunRow:
        """The row of a run of which both sides say already that it has ended so."""
        row = await self.row(which)
        assert row.status == status, self.logs()
        assert await self.shown(row.flow_run_id) == AS_PREFECT_SHOWS_IT[status], self.logs()
        assert row.finished_at is not None
        return row

    async def cancel_in_ui(self, flow_run: FlowRun | str | None) -> None:
        """As Prefect's UI does."""
        await self.floor.client.set_flow_run_state(_id(flow_run), Cancelling())

    # --- who lives

    def living(self) -> dict[int, str]:
        """What lives of all that was begun here, by pid: its command line."""
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
        """The same without the workers and what they have for themselves."""
        living, mine = self.living(), {each.pid for each in self.workers}
        mine |= {each.pid for each in processes.living().values() if each.parent in mine}
        return {pid: line for pid, line in living.items() if pid not in mine}

    async def idle(self, within: float) -> None:
        """Wait until no process of a run lives."""

        async def it_is() -> bool:
            return not self.at_work()

        if not await so(it_is, within):
            raise AssertionError(f"after {within} s there lives {self.at_work()}\n{self.logs()}")

    async def nobody(self, within: float) -> None:
        """Wait until nothing lives, no worker either."""

        async def it_is() -> bool:
            return not self.living()

        if not await so(it_is, within):
            raise AssertionError(f"after {within} s there lives {self.living()}\n{self.logs()}")

    def logs(self) -> str:
        return "\n".join(f"{each.child.log.name}:\n{each.child.tail(40)}" for each in self.workers)

    # --- flows of somebody else's

    async def foreign(self, program: str, **given: Any) -> UUID:
        """The deployment in our pool of a flow that is not ours, called `foreign`."""
        (self.floor.elsewhere / "foreign.py").write_text(program)
        client, folder = self.floor.client, str(self.floor.elsewhere)
        deployment = await client.create_deployment(
            await client.create_flow_from_name("foreign"),
            name=self.root.name,
            work_pool_name=worker.POOL,
            entrypoint="foreign.py:foreign",
            pull_steps=[{"prefect.deployments.steps.set_working_directory": {"directory": folder}}],
            **given,
        )
        self.deployments.append(deployment)
        return deployment

    async def noted(self, name: str, within: float = SEEN) -> list[str]:
        """Wait for a line that such a flow wrote into the file ``name``; the words of all."""
        path = self.floor.elsewhere / name

        async def there() -> bool:
            return path.exists() and path.read_text().endswith("\n")

        assert await so(there, within), self.logs()
        return path.read_text().split()

    async def run_foreign(self, deployment: UUID, **parameters: Any) -> FlowRun:
        return await self.floor.client.create_flow_run_from_deployment(
            deployment, parameters=parameters, state=Scheduled()
        )

    # --- the end

    async def close(self) -> None:
        """End the workers; AssertionError when something outlives them."""
        for each in self.workers:
            while each.child.exit_code is None:  # asked again, it hurries
                with suppress(ProcessLookupError):
                    os.kill(each.pid, signal.SIGCONT)
                    os.kill(each.pid, signal.SIGTERM)
                with suppress(TimeoutError):
                    async with asyncio.timeout(1.0):
                        await each.child.wait()
        for deployment in self.deployments:
            await self.floor.client.delete_deployment(deployment)
        await forget_workers(self.floor.client)
        try:
            await self.nobody(within=15.0)
        finally:
            for pid in self.living():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


@asynccontextmanager
async def hired(
    root: Path, here: PrefectHere, address: str = "", timing: Timing = TIMING
) -> AsyncIterator[Crew]:
    """A floor in ``root`` and the workers that a test begins there; ``address`` as `laid` says.

    ``timing`` is that of the workers and of what they start.
    """
    async with laid(root, address) as floor:
        crew = Crew(floor, root, here, variables=timing.environment())
        if address:
            crew.variables["DAYBOOK_LEDGER_URL"] = address
        async with crew.stack:
            try:
                yield crew
            finally:
                await crew.close()
