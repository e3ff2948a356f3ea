"""Daybook's worker compared with Prefect's process worker, on one server, one after the other.

The contenders are Daybook's worker, Prefect's worker as shipped (polls every 10 s), and the same
one polling every half second. Each gets the same small flow, which belongs to no Daybook job, and
is measured

- idle, once it has run the flow for the first time: CPU, requests, memory;
- with one run after the other, triggered through Prefect's client, each at a random moment between
  two polls: the time from just before the trigger's request to the flow's first line, and the cost
  of a run, less the idle cost of that time;
- with a burst of concurrent runs: from the first trigger to the last end.

Prefect's workers use an interpreter in which Daybook is not installed.
"""

from __future__ import annotations

import asyncio
import os
import random
import sysconfig
import time
import venv
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING
from uuid import UUID

from benchmarks import usage
from benchmarks.report import header, p99, p99_label, progress, row, short
from benchmarks.testbed import POLL_INTERVAL_SECONDS, Cost, Testbed, Worker
from daybook.operations import worker as daybook_worker
from daybook.prefect import work_pool

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun

CONCURRENCY = 8
CONCURRENT_TRIGGERS = 4
FIRST_LINE_TIMEOUT_SECONDS = 120.0
FLOW = """\
import time
from pathlib import Path

from prefect import flow
from prefect.runtime import flow_run


@flow
async def small():
    started = time.time()
    with Path(__file__).with_name("started").open("a") as file:
        file.write(f"{flow_run.id} {started}\\n")
"""


@dataclass(frozen=True)
class Plan:
    """Runs of Prefect's worker as shipped, of each other worker, and in the burst."""

    shipped: int = 15
    others: int = 25
    burst: int = 50
    idle_seconds: float = 30.0


@dataclass(frozen=True)
class Contender:
    """A worker: its name in the table, its pool and pool type, and its command.

    Each run is triggered at a random moment within ``poll_seconds``, the time between two polls.
    """

    name: str
    pool: str
    pool_type: str
    command: Sequence[str]
    environment: Mapping[str, str]
    poll_seconds: float
    runs: int


@dataclass
class Result:
    """Results of one contender: ``idle`` is its cost in that time, ``run`` the cost of one run.

    Memory is in bytes; ``busy`` is the number of answers 503.
    """

    contender: Contender
    idle: Cost
    idle_memory: int
    run: Cost
    latencies: list[float]
    burst: int
    burst_seconds: float
    burst_cost: Cost
    burst_memory: int
    burst_processes: int
    busy: int
    states: Counter[str] = field(default_factory=Counter)

    @property
    def median(self) -> float:
        return median(self.latencies)

    @property
    def burst_rate(self) -> float:
        return self.burst / self.burst_seconds

    @property
    def failed(self) -> int:
        return self.states.total() - self.states["Completed"]


class Trial:
    """One contender's deployment of the flow in ``folder``, and the worker that runs it."""

    def __init__(self, bed: Testbed, folder: Path, worker: Worker, deployment: UUID) -> None:
        self._bed, self._worker, self._deployment = bed, worker, deployment
        self._started_file = folder / "started"
        self.triggered: list[UUID] = []

    async def trigger(self) -> tuple[UUID, float]:
        """Request a run; return its id and the moment just before the request."""
        before = time.time()
        run = await self._bed.client.create_flow_run_from_deployment(self._deployment)
        self.triggered.append(run.id)
        return run.id, before

    async def run_once(self) -> float:
        """Trigger a run and wait for its exit; return the seconds from trigger to first line."""
        run, before = await self.trigger()
        async with asyncio.timeout(FIRST_LINE_TIMEOUT_SECONDS):
            while run not in (started := self._started()):
                self._worker.check_alive()
                await asyncio.sleep(POLL_INTERVAL_SECONDS)
        await self._worker.wait_idle()
        return started[run] - before

    async def wait_for_all(self) -> None:
        """Wait until all triggered runs have started and their processes have exited."""
        expected, count = set(self.triggered), 0
        while count < len(expected):
            async with asyncio.timeout(FIRST_LINE_TIMEOUT_SECONDS):
                while (new_count := len(expected & self._started().keys())) == count:
                    self._worker.check_alive()
                    await asyncio.sleep(POLL_INTERVAL_SECONDS)
            count = new_count
        await self._worker.wait_idle()

    async def runs(self, ids: Sequence[UUID]) -> list[FlowRun]:
        return [await self._bed.client.read_flow_run(each) for each in ids]

    def _started(self) -> dict[UUID, float]:
        """Return the time of each run's first line, in epoch seconds."""
        file = self._started_file
        lines = file.read_text().splitlines() if file.exists() else []
        return {UUID(run): float(at) for run, at in map(str.split, lines)}


def contenders(bed: Testbed, python: str, plan: Plan) -> list[Contender]:
    """Return the contenders; ``python`` is the interpreter of Prefect's own workers."""
    # As if only Prefect were installed: no part of this checkout is on its path.
    shipped = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    polling = shipped | {"PREFECT_WORKER_QUERY_SECONDS": "0.5"}

    def process(pool: str) -> list[str]:
        words = f"worker start --type process --pool {pool} --name {pool} --limit {CONCURRENCY}"
        return [python, "-m", "prefect", *words.split()]

    command, environment = bed.worker_command("bench", CONCURRENCY)
    return [
        Contender(
            "Daybook's worker",
            daybook_worker.POOL,
            work_pool.POOL_TYPE,
            command,
            environment,
            poll_seconds=2.0,
            runs=plan.others,
        ),
        Contender(
            "process worker as shipped",
            *("shipped", "process", process("shipped"), shipped, 10.0, plan.shipped),
        ),
        Contender(
            "process worker, polling every 0.5 s",
            *("often", "process", process("often"), polling, 0.5, plan.others),
        ),
    ]


def _interpreter_without_daybook(folder: Path) -> str:
    """Create an environment in ``folder`` with links to all packages except Daybook.

    Prefect imports each installed package that provides a worker type or a block. If Prefect's own
    worker imported Daybook as well, it would be larger and slower than Prefect as shipped. Return
    the path of the interpreter.
    """
    venv.create(folder, with_pip=False, symlinks=True)
    packages = Path(sysconfig.get_path("purelib", "venv", vars={"base": str(folder)}))
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        # The editable install's path file is called `_daybook.pth`.
        if not entry.name.lstrip("_").startswith(("daybook", "pycache")):
            (packages / entry.name).symlink_to(entry)
    return str(folder / "bin" / "python")


async def compare(bed: Testbed, folder: Path, plan: Plan) -> list[Result]:
    """Measure the contenders, Daybook's worker first; files go to ``folder``."""
    python = _interpreter_without_daybook(folder / "plain")
    return [await _measure(bed, folder, each, plan) for each in contenders(bed, python, plan)]


async def _measure(bed: Testbed, folder: Path, contender: Contender, plan: Plan) -> Result:
    def say(line: str) -> None:
        progress(f"{contender.name}: {line}")

    say("starting")
    deployment = await _deploy(bed, folder, contender)
    async with bed.worker(contender.command, contender.environment) as worker:
        trial = Trial(bed, folder, worker, deployment)
        first = await trial.run_once()
        say(f"first run after {first:.2f} s; idle for {plan.idle_seconds:g} s")
        start = await bed.cost(worker)
        idle = await bed.idle_cost(worker, plan.idle_seconds)
        idle_memory = usage.memory(worker.pid)

        before, latencies = await bed.cost(worker), list[float]()
        for number in range(contender.runs):
            await asyncio.sleep(random.uniform(0, contender.poll_seconds))
            latencies.append(await trial.run_once())
            say(f"run {number + 1} of {contender.runs}: {latencies[-1]:.3f} s")
        run = (await bed.cost(worker)).since(before).per_run(contender.runs, idle)

        say(f"burst of {plan.burst}")
        before, limit = await bed.cost(worker), asyncio.Semaphore(CONCURRENT_TRIGGERS)

        async def trigger() -> tuple[UUID, float]:
            async with limit:
                return await trial.trigger()

        async with usage.Peak(worker.pid) as peak:
            triggered = await asyncio.gather(*(trigger() for _ in range(plan.burst)))
            await trial.wait_for_all()
        after = await bed.cost(worker)
        burst_runs = await trial.runs([run_id for run_id, _ in triggered])
        last_end = max(each.end_time.timestamp() for each in burst_runs if each.end_time)
        result = Result(
            contender,
            idle,
            idle_memory,
            run,
            latencies,
            plan.burst,
            last_end - min(at for _, at in triggered),
            after.since(before),
            peak.memory,
            peak.processes - len(worker.own_pids),
            after.since(start).busy,
        )
        result.states.update(
            each.state_name or "none" for each in await trial.runs(trial.triggered)
        )
    for path, count in sorted(run.paths.items(), key=lambda each: -each[1]):
        if count >= 0.05:
            say(f"{count:5.2f} × {path}")
    return result


async def _deploy(bed: Testbed, folder: Path, contender: Contender) -> UUID:
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.workers.process import ProcessWorker

    if contender.pool_type == work_pool.POOL_TYPE:
        await work_pool.ensure(bed.client)
    else:
        template = ProcessWorker.get_default_base_job_template()
        pool = WorkPoolCreate(
            name=contender.pool, type=contender.pool_type, base_job_template=template
        )
        await bed.client.create_work_pool(pool)
    (folder / "small.py").write_text(FLOW)
    directory = {"directory": str(folder)}
    return await bed.client.create_deployment(
        await bed.client.create_flow_from_name("small"),
        name=contender.pool,
        work_pool_name=contender.pool,
        entrypoint="small.py:small",
        pull_steps=[{"prefect.deployments.steps.set_working_directory": directory}],
    )


def table(results: Sequence[Result]) -> str:
    """Return the results as Markdown; ratios above 1 mean that Daybook's worker is better."""
    first = results[0]
    names = [each.contender.name for each in results]
    lines = [header("", names[0], *(cell for name in names[1:] for cell in (name, "ratio")))]

    def add(
        what: str,
        values: Sequence[float],
        unit: str = "",
        *,
        more_is_better: bool = False,
        ratios: bool = True,
    ) -> None:
        cells = [what, f"{short(values[0])}{unit}"]
        for value in values[1:]:
            ratio = ""
            if ratios and value and values[0]:
                ratio = f"{short(values[0] / value if more_is_better else value / values[0])} ×"
            cells += [f"{short(value)}{unit}", ratio]
        lines.append(row(*cells))

    counts = " / ".join(str(len(each.latencies)) for each in results)
    label = p99_label(first.latencies)
    add(f"trigger → first line, median of {counts}", [each.median for each in results], " s")
    add(f"trigger → first line, {label}", [p99(each.latencies) for each in results], " s")
    add("CPU of the worker and its processes per run", [e.run.worker for e in results], " s")
    add("CPU of the server per run", [each.run.server for each in results], " s")
    add("HTTP requests per run", [each.run.requests for each in results])
    burst = f"burst of {first.burst} at concurrency {CONCURRENCY}: "
    add(f"{burst}runs per second", [each.burst_rate for each in results], more_is_better=True)
    add(
        "… CPU of the worker and its processes per run",
        [each.burst_cost.worker / each.burst for each in results],
        " s",
    )
    add(
        "… CPU of the server per run",
        [each.burst_cost.server / each.burst for each in results],
        " s",
    )
    add("… peak memory (PSS)", [each.burst_memory / 1e6 for each in results], " MB")
    add("… peak number of run processes", [each.burst_processes for each in results])
    add("idle: memory (PSS)", [each.idle_memory / 1e6 for each in results], " MB")
    add(
        "idle: CPU of the worker",
        [100 * each.idle.worker / each.idle.seconds for each in results],
        " %",
    )
    add(
        "idle: requests per minute",
        [60 * each.idle.requests / each.idle.seconds for each in results],
    )
    add(
        "other load on the machine, cores: one run after the other",
        [each.run.others / each.run.seconds for each in results],
        ratios=False,
    )
    add(
        "… during the burst",
        [each.burst_cost.others / each.burst_cost.seconds for each in results],
        ratios=False,
    )
    add("answers 503", [each.busy for each in results])
    add("runs that did not complete", [each.failed for each in results])
    return "\n".join(lines)


def missed(results: Sequence[Result]) -> list[str]:
    """Return the missed targets."""
    daybook, shipped, polling = results
    cpu = daybook.run.worker

    targets = {
        "start, compared with the worker as shipped": (shipped.median / daybook.median, 20),
        "start, compared with polling every 0.5 s": (polling.median / daybook.median, 10),
        "CPU per run, compared with the worker as shipped": (shipped.run.worker / cpu, 12),
        "CPU per run, compared with polling every 0.5 s": (polling.run.worker / cpu, 12),
        "burst, compared with the worker as shipped": (daybook.burst_rate / shipped.burst_rate, 8),
    }
    found = [
        f"{what}: {ratio:.1f} ×, target ≥ {target} ×"
        for what, (ratio, target) in targets.items()
        if ratio < target
    ]
    if daybook.busy or daybook.failed:
        found.append(
            f"Daybook's worker: {daybook.busy} answers 503, {daybook.failed} runs did not complete"
        )
    return found
