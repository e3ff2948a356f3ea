"""Our worker compared with Prefect's process worker, on one server, one after the other.

The contenders are Prefect's worker as shipped (polls every 10 s), the same one polling every half
second, and ours. Each gets the same small flow, which belongs to no Daybook job, and is measured

- idle, once it has run the flow for the first time: CPU, requests, memory;
- with one run after the other, triggered through Prefect's client, each at a random moment between
  two polls: the time from just before the trigger's request to the flow's first line, and the cost
  of a run, less what the worker spends idle in that time;
- with a burst of concurrent runs: from the first trigger to the last end.

Prefect's workers get an interpreter in which Daybook is not installed (`benchmarks.plain`).
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING
from uuid import UUID

from benchmarks import plain, usage
from benchmarks.figures import head, row, short, worst, worst_is
from benchmarks.place import LOOK, Place, Spent, Worker
from daybook.operations import worker as ours

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun

CONCURRENCY = 8
TRIGGERS = 4
"""Number of a burst's triggers that are requested concurrently."""
FIRST_LINE_WITHIN = 120.0
FLOW = """\
import time
from pathlib import Path

from prefect import flow
from prefect.runtime import flow_run


@flow
async def small():
    began = time.time()
    with Path(__file__).with_name("began").open("a") as book:
        book.write(f"{flow_run.id} {began}\\n")
"""


@dataclass(frozen=True)
class Plan:
    """Amount of work: runs one after the other, runs of a burst, seconds of idling."""

    shipped: int = 15
    others: int = 25
    burst: int = 50
    idle: float = 30.0


@dataclass(frozen=True)
class Contender:
    """A worker: its column's name, its pool and its type, and its command.

    ``poll`` is the seconds between two polls; a run is triggered at a random moment in them.
    """

    name: str
    pool: str
    kind: str
    command: Sequence[str]
    environment: Mapping[str, str]
    poll: float
    runs: int


@dataclass
class Measured:
    """One contender's figures: ``idle`` over its seconds, ``run`` the cost of one run."""

    contender: Contender
    idle: Spent
    idle_memory: int
    run: Spent
    latencies: list[float]
    burst: int
    burst_seconds: float
    burst_spent: Spent
    burst_memory: int
    burst_processes: int
    busy: int
    ends: Counter[str] = field(default_factory=Counter)

    @property
    def median(self) -> float:
        return median(self.latencies)

    @property
    def rate(self) -> float:
        return self.burst / self.burst_seconds

    @property
    def failed(self) -> int:
        return self.ends.total() - self.ends["Completed"]


class Bench:
    """One contender's deployment of the flow in ``folder``, and the worker that runs it."""

    def __init__(self, place: Place, folder: Path, worker: Worker, deployment: UUID) -> None:
        self._place, self._worker, self._deployment = place, worker, deployment
        self._book = folder / "began"
        self.triggered: list[UUID] = []

    async def trigger(self) -> tuple[UUID, float]:
        """Request a run; return its id and the moment just before the request."""
        before = time.time()
        run = await self._place.client.create_flow_run_from_deployment(self._deployment)
        self.triggered.append(run.id)
        return run.id, before

    async def one(self) -> float:
        """Run once, until nothing is left of it; return the seconds from trigger to first line."""
        run, before = await self.trigger()
        async with asyncio.timeout(FIRST_LINE_WITHIN):
            while run not in (began := self._began()):
                self._worker.check()
                await asyncio.sleep(LOOK)
        await self._worker.quiet()
        return began[run] - before

    async def all_begun(self) -> None:
        """Wait until the last triggered run has started and nothing is left of any."""
        wanted, known = set(self.triggered), 0
        while known < len(wanted):
            async with asyncio.timeout(FIRST_LINE_WITHIN):
                while (now := len(wanted & self._began().keys())) == known:
                    self._worker.check()
                    await asyncio.sleep(LOOK)
            known = now
        await self._worker.quiet()

    async def runs(self, ids: Sequence[UUID]) -> list[FlowRun]:
        return [await self._place.client.read_flow_run(each) for each in ids]

    def _began(self) -> dict[UUID, float]:
        lines = self._book.read_text().splitlines() if self._book.exists() else []
        return {UUID(run): float(at) for run, at in map(str.split, lines)}


def contenders(place: Place, python: str, plan: Plan) -> list[Contender]:
    """Return the three contenders; ``python`` is the interpreter of Prefect's own workers."""
    # As if only Prefect were installed: no part of this checkout is on its path.
    shipped = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    often = shipped | {"PREFECT_WORKER_QUERY_SECONDS": "0.5"}
    mine = ours.environment(place.home, place.here)
    mine["DAYBOOK_MAX_CONCURRENT"] = str(CONCURRENCY)

    def process(pool: str) -> list[str]:
        words = f"worker start --type process --pool {pool} --name {pool} --limit {CONCURRENCY}"
        return [python, "-m", "prefect", *words.split()]

    command = ours.command(place.home, limit=CONCURRENCY, name="bench")
    return [
        Contender("ours", ours.POOL, ours.POOL_TYPE, command, mine, 2.0, plan.others),
        Contender(
            "process worker as shipped",
            *("shipped", "process", process("shipped"), shipped, 10.0, plan.shipped),
        ),
        Contender(
            "process worker, polling every 0.5 s",
            *("often", "process", process("often"), often, 0.5, plan.others),
        ),
    ]


async def compare(place: Place, folder: Path, plan: Plan) -> list[Measured]:
    """Measure the contenders, ours first in the list; files go to ``folder``."""
    ours_first = contenders(place, plain.interpreter(folder / "plain"), plan)
    return [await _measure(place, folder, each, plan) for each in ours_first]


async def _measure(place: Place, folder: Path, contender: Contender, plan: Plan) -> Measured:
    said = f"{contender.name}: "
    _say(f"{said}starting")
    deployment = await _deploy(place, folder, contender)
    async with place.worker(contender.command, contender.environment) as worker:
        bench = Bench(place, folder, worker, deployment)
        warm = await bench.one()
        _say(f"{said}first run after {warm:.2f} s; idle for {plan.idle:g} s")
        start = await place.spent(worker)
        idle, idle_memory = await place.spent_idle(worker, plan.idle), usage.memory(worker.pid)

        before, latencies = await place.spent(worker), list[float]()
        for number in range(contender.runs):
            await asyncio.sleep(random.uniform(0, contender.poll))
            latencies.append(await bench.one())
            _say(f"{said}run {number + 1} of {contender.runs}: {latencies[-1]:.3f} s")
        run = (await place.spent(worker)).since(before).per_run(contender.runs, idle)

        _say(f"{said}burst of {plan.burst}")
        before, at_once = await place.spent(worker), asyncio.Semaphore(TRIGGERS)

        async def trigger() -> tuple[UUID, float]:
            async with at_once:
                return await bench.trigger()

        async with usage.Peak(worker.pid) as peak:
            asked = await asyncio.gather(*(trigger() for _ in range(plan.burst)))
            await bench.all_begun()
        after = await place.spent(worker)
        ended = await bench.runs([run_id for run_id, _ in asked])
        last = max(each.end_time.timestamp() for each in ended if each.end_time)
        measured = Measured(
            contender,
            idle,
            idle_memory,
            run,
            latencies,
            plan.burst,
            last - min(at for _, at in asked),
            after.since(before),
            peak.memory,
            peak.processes - len(worker.itself),
            after.since(start).busy,
        )
        measured.ends.update(
            each.state_name or "none" for each in await bench.runs(bench.triggered)
        )
    for path, count in sorted(run.paths.items(), key=lambda each: -each[1]):
        if count >= 0.05:
            _say(f"{said}{count:5.2f} × {path}")
    return measured


async def _deploy(place: Place, folder: Path, contender: Contender) -> UUID:
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.workers.process import ProcessWorker

    if contender.kind == ours.POOL_TYPE:
        await ours.ensure_pool(place.client)
    else:
        template = ProcessWorker.get_default_base_job_template()
        await place.client.create_work_pool(
            WorkPoolCreate(name=contender.pool, type=contender.kind, base_job_template=template)
        )
    (folder / "small.py").write_text(FLOW)
    directory = {"directory": str(folder)}
    return await place.client.create_deployment(
        await place.client.create_flow_from_name("small"),
        name=contender.pool,
        work_pool_name=contender.pool,
        entrypoint="small.py:small",
        pull_steps=[{"prefect.deployments.steps.set_working_directory": directory}],
    )


def table(measured: Sequence[Measured]) -> str:
    """Return the figures as Markdown, each with its ratio to the first contender's."""
    first = measured[0]
    names = [each.contender.name for each in measured]
    lines = [head("", names[0], *(cell for name in names[1:] for cell in (name, "against ours")))]

    def say(
        what: str,
        figures: Sequence[float],
        unit: str = "",
        *,
        more: bool = False,
        compare: bool = True,
    ) -> None:
        cells = [what, f"{short(figures[0])}{unit}"]
        for figure in figures[1:]:
            ratio = ""
            if compare and figure and figures[0]:
                ratio = f"{short(figures[0] / figure if more else figure / figures[0])} ×"
            cells += [f"{short(figure)}{unit}", ratio]
        lines.append(row(*cells))

    how_many = " / ".join(str(len(each.latencies)) for each in measured)
    top = "max" if worst_is(first.latencies) == "max" else "p99"
    say(f"trigger → first line, median of {how_many}", [each.median for each in measured], " s")
    say(f"trigger → first line, {top}", [worst(each.latencies) for each in measured], " s")
    say("CPU of worker and its processes, a run", [each.run.worker for each in measured], " s")
    say("CPU of the server, a run", [each.run.server for each in measured], " s")
    say("HTTP requests, a run", [each.run.requests for each in measured])
    burst = f"burst of {first.burst} at concurrency {CONCURRENCY}: "
    say(f"{burst}runs per second", [each.rate for each in measured], more=True)
    say(
        "… CPU of worker and its processes, a run",
        [each.burst_spent.worker / each.burst for each in measured],
        " s",
    )
    say(
        "… CPU of the server, a run",
        [each.burst_spent.server / each.burst for each in measured],
        " s",
    )
    say("… most memory (PSS)", [each.burst_memory / 1e6 for each in measured], " MB")
    say("… most processes of runs", [each.burst_processes for each in measured])
    say("idle: memory (PSS)", [each.idle_memory / 1e6 for each in measured], " MB")
    say(
        "idle: CPU of the worker",
        [100 * each.idle.worker / each.idle.seconds for each in measured],
        " %",
    )
    say(
        "idle: requests a minute",
        [60 * each.idle.requests / each.idle.seconds for each in measured],
    )
    say(
        "what else ran on the machine, cores: one after the other",
        [each.run.others / each.run.seconds for each in measured],
        compare=False,
    )
    say(
        "… during the burst",
        [each.burst_spent.others / each.burst_spent.seconds for each in measured],
        compare=False,
    )
    say("answers 503", [each.busy for each in measured])
    say("runs that did not complete", [each.failed for each in measured])
    return "\n".join(lines)


def missed(measured: Sequence[Measured]) -> list[str]:
    """Return the missed targets."""
    mine, shipped, often = measured

    wanted = {
        "start against the worker as shipped": (shipped.median / mine.median, 20),
        "start against polling every 0.5 s": (often.median / mine.median, 10),
        "CPU of a run against the worker as shipped": (shipped.run.worker / mine.run.worker, 12),
        "CPU of a run against polling every 0.5 s": (often.run.worker / mine.run.worker, 12),
        "burst against the worker as shipped": (mine.rate / shipped.rate, 8),
    }
    found = [
        f"{what}: {ratio:.1f} ×, wanted {least} ×"
        for what, (ratio, least) in wanted.items()
        if ratio < least
    ]
    if mine.busy or mine.failed:
        found.append(f"ours: {mine.busy} answers 503, {mine.failed} runs did not complete")
    return found


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
