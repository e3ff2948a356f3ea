"""One home with its jobs, its agents and its Prefect, for tests in which flows really run.

Programs that act as agents tell through a named pipe where they are, and wait at another one until
they are let go, so no test guesses how long anything takes.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import warnings
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    DeploymentFilter,
    DeploymentFilterTags,
    FlowRunFilter,
)
from prefect.client.schemas.objects import FlowRun, State
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.sorting import DeploymentSort, FlowRunSort
from sqlmodel import col
from sqlmodel import select as rows_of

from daybook.agents import documents
from daybook.clock import SYSTEM
from daybook.errors import NotFound
from daybook.home import Home
from daybook.host import worker
from daybook.ledger import jobs
from daybook.ledger.engine import Ledger
from daybook.ledger.jobs import StoredJob
from daybook.ledger.tables import RunRow
from daybook.spec.job import new_job
from daybook.sync import projection
from daybook.sync.form import POOL
from daybook.sync.reconcile import Report, bring
from tests.at_prefect import register_blocks

# Prefect reads where results are stored through a client that it does not close, at each flow run.
PREFECT_LEAVES_A_SOCKET = [
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
    pytest.mark.filterwarnings(
        "ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"
    ),
]

# tell(word): one line into the pipe. had(): one more line in the file of effects. heed(): waits
# until the test lets one go.
PRELUDE = """
import os, signal, sys
def tell(word):
    with open(sys.argv[1] + ".pipe", "a") as pipe:
        pipe.write(f"{os.getpid()} {word}\\n")
def had():
    with open(sys.argv[1] + ".effects", "a") as effects:
        effects.write("had\\n")
def heed():
    with open(sys.argv[1] + ".go", "rb", buffering=0) as go:
        go.read(1)
def forever():
    while True:
        signal.pause()
"""


class Agent:
    """A command agent whose program is a test's."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.base = folder / name
        self.effects = self.base.with_suffix(".effects")
        self._pipe, self._go = (self._fifo(suffix) for suffix in (".pipe", ".go"))
        self._text = b""

    def _fifo(self, suffix: str) -> int:
        path = self.base.with_suffix(suffix)
        os.mkfifo(path)
        return os.open(path, os.O_RDWR | os.O_NONBLOCK)

    @property
    def had(self) -> int:
        """How often its effect was had."""
        return len(self.effects.read_text().splitlines()) if self.effects.exists() else 0

    async def _line(self) -> str:
        loop, ready = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._pipe, ready.set)
        try:
            while b"\n" not in self._text:
                await ready.wait()
                ready.clear()
                with suppress(BlockingIOError):
                    self._text += os.read(self._pipe, 4096)
        finally:
            loop.remove_reader(self._pipe)
        line, _, self._text = self._text.partition(b"\n")
        return line.decode()

    async def word(self, within: float = 60.0) -> tuple[int, str]:
        """Wait for what it says next; the process that says it, and what."""
        try:
            async with asyncio.timeout(within):
                pid, said = (await self._line()).split(" ", 1)
        except TimeoutError:
            raise AssertionError(f"agent {self.name} said nothing for {within} s") from None
        return int(pid), said

    async def says(self, word: str, within: float = 60.0) -> int:
        """Wait for the word, which is to be the next; returns the process that said it."""
        pid, said = await self.word(within)
        assert said == word
        return pid

    def let_go(self, count: int = 1) -> None:
        """Let so many of those that `heed` go on, also who comes to it later."""
        os.write(self._go, b"." * count)

    def close(self) -> None:
        os.close(self._go)
        os.close(self._pipe)


def alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):  # the second one: gone since it was opened
        return False


class Execution:
    """A process that executes one flow run, as Prefect's process worker starts it."""

    def __init__(self, child: asyncio.subprocess.Process) -> None:
        self.child = child

    async def sent(self, number: signal.Signals) -> None:
        """Send it a signal while its main thread sleeps.

        Prefect raises an exception where the signal meets the process. In a step of a task, asyncio
        keeps it as that task's: then nothing ends, unless somebody kills it after a while.
        """
        async with asyncio.timeout(60):
            before = ""
            while (now := self._woken()) != before:
                before = now
                await SYSTEM.wait_until(SYSTEM.now() + timedelta(milliseconds=50))
        with suppress(ProcessLookupError):
            self.child.send_signal(number)

    def _woken(self) -> str:
        """How often its main thread has slept, and run, by now."""
        try:
            status = Path(f"/proc/{self.child.pid}/task/{self.child.pid}/status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return ""  # it has ended by itself
        return "".join(line for line in status.splitlines() if "ctxt_switches" in line)

    async def ends(self) -> tuple[int, str]:
        """Wait for its end; its exit code and what it said."""
        async with asyncio.timeout(90):
            said, _ = await self.child.communicate()
        return self.child.returncode or 0, said.decode()


@dataclass
class Floor:
    """One home with its ledger, at the session's Prefect."""

    home: Home
    ledger: Ledger
    client: PrefectClient
    elsewhere: Path
    agents: list[Agent] = field(default_factory=list)
    models: list[str] = field(default_factory=list)
    executions: list[Execution] = field(default_factory=list)

    async def agent(self, program: str) -> Agent:
        """A new command agent whose program is Python."""
        agent = Agent(f"a-{uuid4().hex[:8]}", self.elsewhere)
        self.agents.append(agent)
        script = agent.base.with_suffix(".py")
        script.write_text(PRELUDE + program)
        command = [sys.executable, str(script), str(agent.base)]
        await documents.add(self.client, agent.name, "command", {"command": command})
        return agent

    async def job(self, **fields: Any) -> StoredJob:
        """A job with its deployment."""
        name = f"job-{uuid4().hex[:8]}"
        given = {"name": name, "prompt": "Do it", **fields}
        job = new_job(now=self.ledger.now(), **given)
        async with self.ledger.write() as session:
            stored = await jobs.add(session, job, name, self.ledger.now())
        await bring(self.ledger, self.client, stored, None, Report())
        async with self.ledger.read() as session:
            return await jobs.find(session, stored.id)

    async def scheduled(self, stored: StoredJob) -> FlowRun:
        """The first run that Prefect's scheduler has made of the job."""
        wanted = FlowRunFilter.model_validate(
            {"deployment_id": {"any_": [stored.row.deployment_id]}}
        )
        runs = await self.client.read_flow_runs(
            flow_run_filter=wanted, sort=FlowRunSort.EXPECTED_START_TIME_ASC, limit=1
        )
        assert runs
        return runs[0]

    async def asked(self, stored: StoredJob, **given: Any) -> FlowRun:
        """A custom run, asked for in Prefect."""
        deployment = UUID(str(stored.row.deployment_id))
        return await self.client.create_flow_run_from_deployment(deployment, parameters=given)

    async def keyed(self, stored: StoredJob, key: str) -> FlowRun:
        """A run that we ask Prefect for, with a key of ours."""
        deployment = UUID(str(stored.row.deployment_id))
        return await self.client.create_flow_run_from_deployment(
            deployment, parameters=stored.job.parameters(), idempotency_key=key
        )

    async def archive(self, stored: StoredJob) -> None:
        """Remove the job; its deployment is still to be deleted."""
        async with self.ledger.write() as session:
            await jobs.archive(session, await jobs.find(session, stored.id), self.ledger.now())

    async def execute(
        self, run: FlowRun, *, bare: bool = False, variables: Mapping[str, str] | None = None
    ) -> Execution:
        """Execute the flow run with the command of the process worker, in a folder elsewhere.

        ``bare`` leaves the supervisor out: only the process in which the flow runs.
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
        """Execute it to its end; the state that Prefect has then."""
        code, said = await (await self.execute(run, bare=True)).ends()
        state = await self.state(run)
        assert code == 0 or not state.is_completed(), said
        return state

    async def state(self, run: FlowRun) -> State[Any]:
        state = (await self.client.read_flow_run(run.id)).state
        assert state is not None
        return state

    async def row(self) -> RunRow:
        """The ledger's only run."""
        (row,) = await self.rows()
        return row

    async def rows(self) -> list[RunRow]:
        async with self.ledger.read() as session:
            found = await session.execute(rows_of(RunRow).order_by(col(RunRow.queued_at)))
            return list(found.scalars())

    async def artifact(self, flow_run_id: str | None) -> str:
        """The Markdown of that run's artifact."""
        of_run = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[UUID(str(flow_run_id))]))
        (found,) = await self.client.read_artifacts(artifact_filter=of_run)
        return str(found.data)

    async def close(self) -> None:
        for execution in self.executions:
            if execution.child.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(execution.child.pid, signal.SIGKILL)
                await execution.child.communicate()
        for agent in self.agents:
            agent.close()
        for name in [*(agent.name for agent in self.agents), *self.models]:
            with suppress(NotFound):
                await documents.remove(self.client, name)
        # A worker that another test starts at this Prefect would take their runs.
        for each in await deployments_of(self.client, self.ledger.id):
            await self.client.delete_deployment(UUID(each))


async def deployments_of(client: PrefectClient, ledger_id: str) -> dict[str, DeploymentResponse]:
    """All deployments with this ledger's tag, by id, as Prefect's own client reads them."""
    tags = DeploymentFilterTags(all_=[projection.ledger_tag(ledger_id)])
    found: dict[str, DeploymentResponse] = {}
    page: list[DeploymentResponse] | None = None
    while page is None or page:
        page = await client.read_deployments(
            deployment_filter=DeploymentFilter(tags=tags),
            sort=DeploymentSort.NAME_ASC,
            offset=len(found),
        )
        found |= {str(each.id): each for each in page}
    return found


async def forget_workers(client: PrefectClient) -> None:
    """Prefect holds a worker that has ended for online for half a minute more."""
    for gone in await client.read_workers_for_work_pool(POOL):
        await client.request(
            "DELETE",
            "/work_pools/{work_pool_name}/workers/{name}",
            path_params={"work_pool_name": POOL, "name": gone.name},
        )


@asynccontextmanager
async def laid(root: Path, address: str = "") -> AsyncIterator[Floor]:
    """A floor in the folder ``root``, at the Prefect that this process talks to.

    ``address`` is the ledger's, where it is not that of the home.
    """
    home, elsewhere = Home(root / "home").make(), root / "elsewhere"
    elsewhere.mkdir()
    address = address or f"sqlite+aiosqlite:///{home.path}/ledger.db"
    async with get_client() as client, Ledger(address) as ledger:
        await register_blocks(client)
        await documents.ensure_default(client)
        await worker.ensure_pool(client)
        floor = Floor(home, ledger, client, elsewhere)
        try:
            yield floor
        finally:
            await floor.close()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()  # here, not in somebody else's test
    gc.freeze()  # the next collection skips what survived this one
