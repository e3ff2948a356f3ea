"""Lateness of Daybook's jobs, and the cost of an idle worker.

By hand: `daybook.api.runs.run` in this process, at random moments. The lateness is the seconds from
`scheduled_for`, the instant of the request, to `started_at`, when the agent is called. The agent is
the offline one. Then the idle worker is measured, together with the preloaded parent of its runs.

On schedule, if requested: jobs that are due every `INTERVAL_SECONDS`, their anchors spread evenly,
for some minutes. A run's lateness is `started_at` less its due time, less the time for which
Prefect shows it as waiting for a slot.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise
from statistics import median
from uuid import UUID

from sqlmodel import col, select

from benchmarks import usage
from benchmarks.report import header, p99, p99_label, progress, row, short
from benchmarks.testbed import Cost, Testbed, Worker
from daybook.api import jobs, runs
from daybook.clock import SYSTEM_CLOCK
from daybook.jobs import store
from daybook.ledger.engine import open_ledger
from daybook.ledger.tables import RunRow
from daybook.prefect import states as prefect_states
from daybook.schedules.due import between

JOB_COUNT = 20
INTERVAL_SECONDS = 20
WARM_UP = timedelta(seconds=15)
"""Time between the last job's addition and the first due time that counts."""
LAST_RUNS_SECONDS = 30.0
"""Time in which the last runs may end."""


@dataclass(frozen=True)
class Plan:
    """Runs requested by hand, seconds of idling, minutes of scheduled jobs (0: none)."""

    by_hand: int = 30
    idle_seconds: float = 60.0
    minutes: float = 0.0


@dataclass
class Result:
    """Seconds of lateness by hand, the cost of such a run, and the cost of idling.

    ``idle_memory`` is in bytes (PSS).
    """

    by_hand: list[float]
    run: Cost
    idle: Cost
    idle_memory: int
    scheduled: Scheduled | None = None


@dataclass
class Scheduled:
    """Outcomes of ``due`` due times.

    ``lateness`` has the seconds of those that ran, ``waits`` the seconds for which some of them
    waited for a slot, and ``not_run`` the outcomes of the rest.
    """

    due: int
    cost: Cost
    lateness: list[float] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    not_run: list[str] = field(default_factory=list)

    @property
    def early(self) -> int:
        return sum(each < 0 for each in self.lateness)


async def measure(bed: Testbed, plan: Plan) -> Result:
    await bed.prepare()
    async with bed.worker(*bed.worker_command("jobs", JOB_COUNT)) as worker:
        await jobs.add({"name": "by-hand", "prompt": "What is on today?", "on_demand": True})
        progress(f"by hand: first run after {await _run_by_hand():.3f} s")
        before, by_hand = await bed.cost(worker), list[float]()
        for number in range(plan.by_hand):
            await worker.wait_idle()
            await asyncio.sleep(random.uniform(0, 2))
            by_hand.append(await _run_by_hand())
            progress(f"by hand: run {number + 1} of {plan.by_hand}: {by_hand[-1]:.3f} s")
        await worker.wait_idle()
        cost = (await bed.cost(worker)).since(before)
        await asyncio.sleep(2.0)
        progress(f"idle for {plan.idle_seconds:g} s")
        idle = await bed.idle_cost(worker, plan.idle_seconds)
        run = cost.per_run(plan.by_hand, idle)
        result = Result(by_hand, run, idle, usage.memory(worker.pid))
        if plan.minutes:
            result.scheduled = await _run_scheduled(bed, worker, timedelta(minutes=plan.minutes))
    return result


async def _run_by_hand() -> float:
    """Request a run and wait for it; return its lateness in seconds."""
    run = await runs.run("by-hand", wait=True)
    if run.status != "succeeded":
        raise RuntimeError(f"{run.status}: {run.reason} {run.error}")
    assert run.started_at is not None
    return (run.started_at - run.scheduled_for).total_seconds()


async def _run_scheduled(bed: Testbed, worker: Worker, duration: timedelta) -> Scheduled:
    start = SYSTEM_CLOCK.now().replace(microsecond=0) + timedelta(seconds=2)
    for number in range(JOB_COUNT):
        # An interval counts from the moment of its addition.
        offset = timedelta(seconds=number * INTERVAL_SECONDS / JOB_COUNT)
        await SYSTEM_CLOCK.wait_until(start + offset)
        name, interval = f"scheduled-{number + 1}", f"{INTERVAL_SECONDS}s"
        await jobs.add({"name": name, "prompt": "What is on today?", "every": interval})
    first, before = SYSTEM_CLOCK.now() + WARM_UP, await bed.cost(worker)
    last = first + duration
    progress(f"{JOB_COUNT} jobs every {INTERVAL_SECONDS} s until {last:%H:%M:%S} UTC")
    await SYSTEM_CLOCK.wait_until(last)
    cost = (await bed.cost(worker)).since(before)
    await asyncio.sleep(LAST_RUNS_SECONDS)
    return await _outcomes(bed, first, last, cost)


async def _outcomes(bed: Testbed, first: datetime, last: datetime, cost: Cost) -> Scheduled:
    """Return the outcomes of the due times from ``first`` to ``last``."""
    async with open_ledger() as ledger, ledger.read() as session:
        rows = (await session.execute(select(RunRow).where(col(RunRow.due) >= first))).scalars()
        by_due = {(each.job_id, each.due): each for each in rows}
        every_job = await store.all_jobs(session)
    before_first = first - timedelta(microseconds=1)
    due_times = [
        (each.id, due)
        for each in every_job
        for due in between(each.job.schedule, before_first, last)
    ]
    scheduled = Scheduled(len(due_times), cost)
    for due_time in due_times:
        run = by_due.get(due_time)
        if run is None or run.started_at is None:
            scheduled.not_run.append("no row" if run is None else f"{run.status} {run.reason}")
            continue
        wait = await _slot_wait(bed, run)
        if wait:
            scheduled.waits.append(wait)
        scheduled.lateness.append((run.started_at - run.due).total_seconds() - wait)
    return scheduled


async def _slot_wait(bed: Testbed, run: RunRow) -> float:
    """Return the seconds after its due time for which Prefect showed it as waiting for a slot."""
    states = await bed.client.read_flow_run_states(UUID(run.flow_run_id))
    states.sort(key=lambda each: each.timestamp)
    wait = 0.0
    for state, following in pairwise(states):
        if state.name == prefect_states.WAITING_NAME:
            since = max(state.timestamp.timestamp(), run.due.timestamp())
            wait += max(0.0, following.timestamp.timestamp() - since)
    return wait


def table(result: Result) -> str:
    by_hand, run, idle = result.by_hand, result.run, result.idle
    lines = [
        header("what", "measured", "target"),
        _row(f"by hand: lateness, median of {len(by_hand)}", median(by_hand), "s", "< 0.4 s"),
        _row(f"… {p99_label(by_hand)}", p99(by_hand), "s"),
        _row("… CPU of the worker and its processes per run", run.worker, "s"),
        _row("… CPU of the server per run", run.server, "s"),
        _row("… other load on the machine", run.others / run.seconds, "cores"),
        _row("idle: CPU of worker and parent", _percent(idle), "% of a core", "< 2 %"),
        _row("… memory of both (PSS)", result.idle_memory / 1e6, "MB", "< 250 MB"),
    ]
    if (scheduled := result.scheduled) is not None and scheduled.lateness:
        lateness, waits, cost = scheduled.lateness, scheduled.waits, scheduled.cost
        label = f"on schedule, {JOB_COUNT} jobs every {INTERVAL_SECONDS} s: due times that ran"
        lines += [
            row(label, f"{len(lateness)} of {scheduled.due}", "all"),
            row("… that ran early", str(scheduled.early), "0"),
            _row("… lateness, median", median(lateness), "s", "< 0.3 s"),
            _row(f"… lateness, {p99_label(lateness)}", p99(lateness), "s", "< 1.5 s"),
            row("… that waited for a slot", f"{len(waits)}, {sum(waits):.1f} s in all", ""),
            _row("… other load on the machine", cost.others / cost.seconds, "cores"),
        ]
    return "\n".join(lines)


def missed(result: Result) -> list[str]:
    """Return the missed targets."""
    limits = [
        ("by hand, median seconds", median(result.by_hand), 0.4),
        ("idle: % of a core", _percent(result.idle), 2.0),
        ("idle: MB", result.idle_memory / 1e6, 250.0),
    ]
    found = list[str]()
    if (scheduled := result.scheduled) is not None:
        if scheduled.early or scheduled.not_run or not scheduled.lateness:
            found.append(f"on schedule: {scheduled.early} early, not run: {scheduled.not_run}")
        if scheduled.lateness:
            limits += [
                ("on schedule, median seconds", median(scheduled.lateness), 0.3),
                ("on schedule, p99 seconds", p99(scheduled.lateness), 1.5),
            ]
    over = (each for each in limits if each[1] >= each[2])
    return found + [f"{what}: {value:.3g}, target < {limit}" for what, value, limit in over]


def _percent(idle: Cost) -> float:
    return 100 * idle.worker / idle.seconds


def _row(what: str, value: float, unit: str, target: str = "") -> str:
    return row(what, f"{short(value)} {unit}", target)
