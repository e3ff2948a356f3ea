"""Throughput of a backlog compared with that of a burst.

Both consist of runs of the same few jobs with the same concurrency limit. The burst is small and is
requested while a worker waits for it. The backlog is large and is requested while no worker runs:
when a worker starts, it gets all runs at once, and all but a few have to wait for a slot. The rate
counts from the first start of a run to the last end. The ratio of the two rates shows whether a run
costs more if more runs wait; it should not.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from sqlmodel import col, select

from benchmarks.figures import head, row, short
from benchmarks.place import LOOK, Place
from daybook import repository
from daybook.agents import documents
from daybook.api import jobs, runs
from daybook.ledger.engine import open_ledger
from daybook.ledger.states import TERMINAL, Status
from daybook.ledger.tables import RunRow
from daybook.operations import worker as ours

JOBS = 5
CONCURRENCY = 8
ASKED_AT_ONCE = 4
LEAST_RATIO = 0.8
STANDSTILL_SECONDS = 60.0


@dataclass(frozen=True)
class Plan:
    """Number of runs in the burst and in the backlog."""

    burst: int = 40
    backlog: int = 200


@dataclass(frozen=True)
class Measured:
    """Runs per second, and the seconds from the first start to the last end."""

    plan: Plan
    burst_seconds: float
    backlog_seconds: float

    @property
    def burst(self) -> float:
        return self.plan.burst / self.burst_seconds

    @property
    def backlog(self) -> float:
        return self.plan.backlog / self.backlog_seconds

    @property
    def ratio(self) -> float:
        return self.backlog / self.burst


async def measure(place: Place, plan: Plan) -> Measured:
    """Prepare this Prefect as `daybook up` does, and measure both."""
    await repository.load_entry_point("blocks/__init__.py").register(place.client)
    await ours.ensure_pool(place.client)
    await documents.ensure_default(place.client)
    names = [f"backlog-{number}" for number in range(JOBS)]
    for name in names:
        fields = {"prompt": "What is on today?", "session": "new", "policy": {"overlap": "allow"}}
        await jobs.add({"name": name, "on_demand": True, **fields})
    environment = ours.environment(place.home, place.here)
    environment["DAYBOOK_MAX_CONCURRENT"] = str(CONCURRENCY)
    command = ours.command(place.home, limit=CONCURRENCY, name="backlog")
    async with place.worker(command, environment) as worker:
        await runs.run(names[0], wait=True)  # do the imports of the first run now
        _say(f"burst of {plan.burst}")
        burst = await _drained(await _asked(names, plan.burst))
        await worker.quiet()
    _say(f"backlog of {plan.backlog}")
    asked = await _asked(names, plan.backlog)
    async with place.worker(command, environment):
        backlog = await _drained(asked)
    return Measured(plan, burst, backlog)


async def _asked(names: Sequence[str], count: int) -> list[str]:
    """Request ``count`` runs, of each job in turn; return their ids."""
    at_once = asyncio.Semaphore(ASKED_AT_ONCE)

    async def ask(number: int) -> str:
        async with at_once:
            return str((await runs.run(names[number % len(names)]))["id"])

    return await asyncio.gather(*map(ask, range(count)))


async def _drained(ids: Sequence[str]) -> float:
    """Wait until all have ended; return the seconds from the first start to the last end."""
    loop = asyncio.get_running_loop()
    left, since = len(ids), loop.time()
    async with open_ledger() as ledger:
        while True:
            async with ledger.read() as session:
                of_ids = select(RunRow).where(col(RunRow.id).in_(ids))
                rows = (await session.execute(of_ids)).scalars().all()
            now_left = sum(each.state not in TERMINAL for each in rows)
            if not now_left:
                break
            if now_left < left:
                left, since = now_left, loop.time()
            elif loop.time() - since > STANDSTILL_SECONDS:
                raise RuntimeError(f"{left} runs are left, and none ended for a minute")
            await asyncio.sleep(LOOK)
    if wrong := {each.status for each in rows} - {Status.SUCCEEDED.value}:
        raise RuntimeError(f"some runs ended as {', '.join(sorted(wrong))}")
    started = [each.started_at for each in rows if each.started_at is not None]
    finished = [each.finished_at for each in rows if each.finished_at is not None]
    return float((max(finished) - min(started)).total_seconds())


def table(measured: Measured) -> str:
    """Return the figures as Markdown."""
    plan = measured.plan
    return "\n".join(
        [
            head("what", "runs per second", "wanted"),
            row(f"burst of {plan.burst} at concurrency {CONCURRENCY}", short(measured.burst), ""),
            row(f"backlog of {plan.backlog} over {JOBS} jobs", short(measured.backlog), ""),
            row("… of the burst's rate", short(measured.ratio), f"≥ {LEAST_RATIO}"),
        ]
    )


def missed(measured: Measured) -> list[str]:
    """Return the missed targets."""
    if measured.ratio >= LEAST_RATIO:
        return []
    return [f"a backlog drains at {measured.ratio:.2f} of a burst's rate, wanted {LEAST_RATIO}"]


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
