"""Throughput of a backlog compared with that of a burst.

Both consist of runs of the same few jobs with the same concurrency limit. The burst is small and is
requested while a worker waits for it. The backlog is large and is requested while no worker runs:
when a worker starts, it gets all runs at once, and all but a few have to wait for a slot. The rate
counts from the first start of a run to the last end. The ratio of the two rates shows whether a run
costs more if more runs wait; it should not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, func
from sqlmodel import col, select

from benchmarks.report import header, progress, row, short
from benchmarks.testbed import Testbed
from daybook.api import jobs, runs
from daybook.ledger.engine import open_ledger
from daybook.ledger.states import TERMINAL, Status
from daybook.ledger.tables import RunRow

JOB_COUNT = 5
CONCURRENCY = 8
CONCURRENT_REQUESTS = 4
TARGET_RATIO = 0.8
STANDSTILL_SECONDS = 60.0
COUNT_INTERVAL_SECONDS = 0.5
"""Interval at which the ended runs are counted; a rate is computed from their recorded ends."""


@dataclass(frozen=True)
class Plan:
    """Number of runs in the burst and in the backlog."""

    burst: int = 40
    backlog: int = 200


@dataclass(frozen=True)
class Result:
    """Seconds from the first start to the last end, and the rates in runs per second."""

    plan: Plan
    burst_seconds: float
    backlog_seconds: float

    @property
    def burst_rate(self) -> float:
        return self.plan.burst / self.burst_seconds

    @property
    def backlog_rate(self) -> float:
        return self.plan.backlog / self.backlog_seconds

    @property
    def ratio(self) -> float:
        return self.backlog_rate / self.burst_rate


async def measure(bed: Testbed, plan: Plan) -> Result:
    await bed.prepare()
    names = [f"backlog-{number}" for number in range(JOB_COUNT)]
    for name in names:
        fields = {"prompt": "What is on today?", "session": "new", "policy": {"overlap": "allow"}}
        await jobs.add({"name": name, "on_demand": True, **fields})
    command, environment = bed.worker_command("backlog", CONCURRENCY)
    async with bed.worker(command, environment) as worker:
        await runs.run(names[0], wait=True)  # do the imports of the first run now
        progress(f"burst of {plan.burst}")
        burst = await _wait_for_all(await _request(names, plan.burst))
        await worker.wait_idle()
    progress(f"backlog of {plan.backlog}")
    requested = await _request(names, plan.backlog)
    async with bed.worker(command, environment):
        backlog = await _wait_for_all(requested)
    return Result(plan, burst, backlog)


async def _request(names: Sequence[str], count: int) -> list[str]:
    """Request ``count`` runs, of each job in turn; return their ids."""
    limit = asyncio.Semaphore(CONCURRENT_REQUESTS)

    async def request(number: int) -> str:
        async with limit:
            return str((await runs.run(names[number % len(names)])).id)

    return await asyncio.gather(*map(request, range(count)))


async def _wait_for_all(ids: Sequence[str]) -> float:
    """Wait until all runs have ended; return the seconds from the first start to the last end."""
    rows = await wait_for_runs(col(RunRow.id).in_(ids), len(ids))
    started = [each.started_at for each in rows if each.started_at is not None]
    finished = [each.finished_at for each in rows if each.finished_at is not None]
    return float((max(finished) - min(started)).total_seconds())


async def wait_for_runs(which: ColumnElement[bool], count: int) -> Sequence[RunRow]:
    """Wait until ``count`` runs have succeeded; return their rows.

    Raise `RuntimeError` if one ends otherwise, or if none ends for `STANDSTILL_SECONDS`.
    """
    loop = asyncio.get_running_loop()
    left, since = count, loop.time()
    async with open_ledger() as ledger:
        ended = select(func.count()).where(which, col(RunRow.status).in_(TERMINAL))
        while True:
            async with ledger.read() as session:
                now_left = count - (await session.execute(ended)).scalar_one()
            if not now_left:
                break
            if now_left < left:
                left, since = now_left, loop.time()
            elif loop.time() - since > STANDSTILL_SECONDS:
                raise RuntimeError(
                    f"{left} runs are left, and none ended for {STANDSTILL_SECONDS:g} seconds"
                )
            await asyncio.sleep(COUNT_INTERVAL_SECONDS)
        async with ledger.read() as session:
            rows = (await session.execute(select(RunRow).where(which))).scalars().all()
    if outcomes := {each.status for each in rows} - {Status.SUCCEEDED.value}:
        raise RuntimeError(f"some runs ended as {', '.join(sorted(outcomes))}")
    return rows


def table(result: Result) -> str:
    plan = result.plan
    burst = f"burst of {plan.burst} at concurrency {CONCURRENCY}"
    return "\n".join(
        [
            header("what", "runs per second", "target"),
            row(burst, short(result.burst_rate), ""),
            row(f"backlog of {plan.backlog}, {JOB_COUNT} jobs", short(result.backlog_rate), ""),
            row("ratio of the rates", short(result.ratio), f"≥ {TARGET_RATIO}"),
        ]
    )


def missed(result: Result) -> list[str]:
    """Return the missed targets."""
    if result.ratio >= TARGET_RATIO:
        return []
    return [f"backlog: {result.ratio:.2f} of a burst's rate, target ≥ {TARGET_RATIO}"]
