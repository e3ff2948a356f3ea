"""Jobs that are due at the same instant, on one or more workers of one machine.

Each job asks the offline agent once. The workers have the same limit of concurrent runs each. From
the due time on, the time until the last job has begun and until the last has ended counts. The CPU
shows which process is the limit: all of them together have the machine's cores.

With ``others``, as many further runs wait for a worker with a label that no worker has.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import median

from sqlmodel import col

from benchmarks import usage
from benchmarks.backlog import wait_for_runs
from benchmarks.report import header, progress, row, short
from benchmarks.testbed import Testbed
from daybook.api import jobs, runs
from daybook.clock import SYSTEM_CLOCK
from daybook.ledger.tables import RunRow

CONCURRENT_ADDITIONS = 4
SECONDS_PER_JOB = 0.35
"""Time to add a job on a slow machine; the jobs are due after all of them were added."""
RUNS_PER_OTHER_JOB = 10
TARGET_SECONDS = 30.0
"""Time until the last of `TARGET_JOBS` has begun on one worker."""
TARGET_JOBS = 200
TARGET_RATIO = 1.5


@dataclass(frozen=True)
class Plan:
    """``jobs`` due together on each number of ``workers``, with ``limit`` runs each; and others."""

    jobs: int = TARGET_JOBS
    workers: Sequence[int] = (1,)
    limit: int = 4
    others: int = 0


@dataclass(frozen=True)
class Result:
    """Seconds from the due time; CPU seconds of the workers with their runs, and of the server."""

    jobs: int
    workers: int
    others: int
    last_begin: float
    last_end: float
    median_lateness: float
    worker_cpu: float
    server_cpu: float
    cores: float

    @property
    def rate(self) -> float:
        return self.jobs / self.last_end


async def measure(bed: Testbed, plan: Plan) -> list[Result]:
    await bed.prepare()
    found = [await _measure(bed, plan, workers, 0) for workers in plan.workers]
    if plan.others:
        await _add_others(plan.others)
        found.append(await _measure(bed, plan, plan.workers[0], plan.others))
    return found


async def _measure(bed: Testbed, plan: Plan, workers: int, others: int) -> Result:
    prefix = f"together-{workers}-{others}"
    async with AsyncExitStack() as stack:
        started = []
        for number in range(workers):
            command, environment = bed.worker_command(f"{prefix}-{number}", plan.limit)
            environment["DAYBOOK_MAX_CONCURRENT"] = str(plan.limit * workers)
            started.append(await stack.enter_async_context(bed.worker(command, environment)))
        await jobs.add({"name": f"{prefix}-first", "prompt": "Hello", "on_demand": True})
        await runs.run(f"{prefix}-first", wait=True)  # do the imports of the first run now
        due = await add(plan.jobs, prefix)
        await SYSTEM_CLOCK.wait_until(due - timedelta(seconds=1))
        before = [usage.cpu(each.pid) for each in started]
        server_before, machine_before = usage.cpu(bed.server.pid), usage.machine_cpu()
        progress(f"{plan.jobs} jobs are due, {workers} workers, {others} others wait")
        rows = await wait_for_runs(col(RunRow.due) == due, plan.jobs)
        seconds = (SYSTEM_CLOCK.now() - due).total_seconds() + 1.0
        cpu = sum(usage.cpu(each.pid) - at for each, at in zip(started, before, strict=True))
        server, machine = usage.cpu(bed.server.pid), usage.machine_cpu()
    begins = [(each.started_at - due).total_seconds() for each in rows if each.started_at]
    ends = [(each.finished_at - due).total_seconds() for each in rows if each.finished_at]
    return Result(
        plan.jobs,
        workers,
        others,
        max(begins),
        max(ends),
        median(begins),
        cpu,
        server - server_before,
        (machine - machine_before) / seconds,
    )


async def add(
    count: int, prefix: str, minutes: int = 1, seconds_per_job: float = SECONDS_PER_JOB
) -> datetime:
    """Add ``count`` jobs that are due in ``minutes`` minutes of each day; return the first one."""
    seconds = 60.0 + 20.0 + count * seconds_per_job
    due = (SYSTEM_CLOCK.now() + timedelta(seconds=seconds)).replace(second=0, microsecond=0)
    if due.minute + minutes > 60:
        due = due.replace(minute=0) + timedelta(hours=1)
    of_hour = ",".join(str(due.minute + number) for number in range(minutes))
    limit = asyncio.Semaphore(CONCURRENT_ADDITIONS)

    async def add_one(number: int) -> None:
        async with limit:
            fields = {"prompt": "What is on today?", "cron": f"{of_hour} {due.hour} * * *"}
            await jobs.add({"name": f"{prefix}-{number}", "timezone": "UTC", **fields})

    progress(f"adding {count} jobs")
    await asyncio.gather(*map(add_one, range(count)))
    if SYSTEM_CLOCK.now() > due - timedelta(seconds=15):
        raise RuntimeError(f"the machine needs more than {seconds:.0f} s to add {count} jobs")
    return due


async def _add_others(count: int) -> None:
    names = [f"other-{number}" for number in range(-(-count // RUNS_PER_OTHER_JOB))]
    policy = {"overlap": "allow", "worker_label": "absent"}
    for name in names:
        fields = {"prompt": "Hello", "session": "new", "policy": policy, "on_demand": True}
        await jobs.add({"name": name, **fields})
    progress(f"requesting {count} other runs")
    for number in range(count):
        await runs.run(names[number % len(names)])


def table(results: Sequence[Result]) -> str:
    lines = [
        header(
            "jobs, workers, others waiting",
            "last begin",
            "last end",
            "median lateness",
            "runs per second",
            "CPU of a run: workers, server",
            "cores in use",
        )
    ]
    for each in results:
        shares = f"{each.worker_cpu / each.jobs:.3f} s, {each.server_cpu / each.jobs:.3f} s"
        lines.append(
            row(
                f"{each.jobs}, {each.workers}, {each.others}",
                f"{short(each.last_begin)} s",
                f"{short(each.last_end)} s",
                f"{short(each.median_lateness)} s",
                short(each.rate),
                shares,
                short(each.cores),
            )
        )
    return "\n".join(lines)


def missed(results: Sequence[Result]) -> list[str]:
    """Return the missed targets."""
    found = list[str]()
    first = results[0]
    if first.jobs == TARGET_JOBS and first.last_begin > TARGET_SECONDS:
        found.append(
            f"together: last begin after {first.last_begin:.1f} s, target {TARGET_SECONDS}"
        )
    for each in results:
        if each.others and each.last_begin > TARGET_RATIO * first.last_begin:
            found.append(f"together: {each.others} others waiting make it slower than allowed")
    return found
