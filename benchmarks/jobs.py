"""Lateness of Daybook's jobs, with the ledger included, and the cost of an idle worker.

By hand: `daybook.api.runs.run` in this process, at random moments. The lateness is the seconds from
`scheduled_for`, the instant of the request, to `started_at`, when the agent is called. The agent is
the offline one. Then the worker and the parent of its runs' processes are measured while idle.

On schedule, if requested: jobs that are due every `EVERY` seconds, their anchors spread evenly, for
some minutes. A run's lateness is `started_at` less its due time, less the time for which Prefect
shows it as waiting for a slot.
"""

from __future__ import annotations

import asyncio
import random
import sys
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise
from statistics import median
from uuid import UUID

from benchmarks import usage
from benchmarks.figures import head, row, short, worst, worst_is
from benchmarks.place import Place, Spent, Worker
from daybook import repository
from daybook.agents import documents
from daybook.api import jobs, runs
from daybook.clock import SYSTEM_CLOCK
from daybook.jobs import store as stored
from daybook.ledger.engine import open_ledger
from daybook.ledger.tables import RunRow
from daybook.operations import worker as ours
from daybook.prefect import states as prefect_states
from daybook.schedules.due import between

MANY = 20
EVERY = 20
LEAD = timedelta(seconds=15)
"""Time between the last job's addition and the first due time that counts."""
LAST = 30.0
"""Seconds in which the last runs may end."""


@dataclass(frozen=True)
class Plan:
    """Number of manual triggers, seconds of idling, minutes of schedules (0: none)."""

    by_hand: int = 30
    idle: float = 60.0
    minutes: float = 0.0


@dataclass
class Measured:
    """Seconds of lateness by hand and the cost of such a run; cost and memory while idle.

    The memory is in bytes (PSS).
    """

    by_hand: list[float]
    run: Spent
    idle: Spent
    idle_memory: int
    scheduled: Scheduled | None = None


@dataclass
class Scheduled:
    """Of ``due`` due times: the seconds of lateness of those that ran.

    Also the seconds of waiting for those that had to wait for a slot; ``others`` counts the
    outcomes of the rest.
    """

    due: int
    spent: Spent
    lateness: list[float] = field(default_factory=list)
    waited: list[float] = field(default_factory=list)
    others: list[str] = field(default_factory=list)

    @property
    def early(self) -> int:
        return sum(each < 0 for each in self.lateness)


async def measure(place: Place, plan: Plan) -> Measured:
    """Prepare this Prefect as `daybook up` does, and measure."""
    await repository.load_entry_point("blocks/__init__.py").register(place.client)
    await ours.ensure_pool(place.client)
    await documents.ensure_default(place.client)
    environment = ours.environment(place.home, place.here)
    environment["DAYBOOK_MAX_CONCURRENT"] = str(MANY)
    command = ours.command(place.home, limit=MANY, name="jobs")
    async with place.worker(command, environment) as worker:
        await jobs.add({"name": "by-hand", "prompt": "What is on today?", "on_demand": True})
        _say(f"by hand: first run after {await _by_hand():.3f} s")
        before, by_hand = await place.spent(worker), list[float]()
        for number in range(plan.by_hand):
            await worker.quiet()
            await asyncio.sleep(random.uniform(0, 2))
            by_hand.append(await _by_hand())
            _say(f"by hand: run {number + 1} of {plan.by_hand}: {by_hand[-1]:.3f} s")
        await worker.quiet()
        spent = (await place.spent(worker)).since(before)
        await asyncio.sleep(2.0)
        _say(f"idle for {plan.idle:g} s")
        idle = await place.spent_idle(worker, plan.idle)
        run = spent.per_run(plan.by_hand, idle)
        measured = Measured(by_hand, run, idle, usage.memory(worker.pid))
        if plan.minutes:
            measured.scheduled = await _scheduled(place, worker, timedelta(minutes=plan.minutes))
    return measured


async def _by_hand() -> float:
    run = await runs.run("by-hand", wait=True)
    if run["status"] != "succeeded":
        raise RuntimeError(f"{run['status']}: {run['reason']} {run['error']}")
    return _instant(run["started_at"]) - _instant(run["scheduled_for"])


def _instant(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


async def _scheduled(place: Place, worker: Worker, lasts: timedelta) -> Scheduled:
    begin = SYSTEM_CLOCK.now().replace(microsecond=0) + timedelta(seconds=2)
    for number in range(MANY):
        # An interval counts from the moment of its addition.
        step = timedelta(seconds=number * EVERY / MANY)
        await SYSTEM_CLOCK.wait_until(begin + step)
        name = f"scheduled-{number + 1}"
        await jobs.add({"name": name, "prompt": "What is on today?", "every": f"{EVERY}s"})
    first, before = SYSTEM_CLOCK.now() + LEAD, await place.spent(worker)
    last = first + lasts
    _say(f"{MANY} jobs every {EVERY} s until {last:%H:%M:%S} UTC")
    await SYSTEM_CLOCK.wait_until(last)
    spent = (await place.spent(worker)).since(before)
    await asyncio.sleep(LAST)
    return await _judged(place, first, last, spent)


async def _judged(place: Place, first: datetime, last: datetime, spent: Spent) -> Scheduled:
    """Return the outcome of each due time from ``first`` to ``last``."""
    from sqlmodel import col, select

    async with open_ledger() as ledger, ledger.read() as session:
        rows = (await session.execute(select(RunRow).where(col(RunRow.due) >= first))).scalars()
        by_due = {(each.job_id, each.due): each for each in rows}
        every = await stored.all_jobs(session)
    before_first = first - timedelta(microseconds=1)
    wanted = [
        (each.id, due) for each in every for due in between(each.job.schedule, before_first, last)
    ]
    found = Scheduled(len(wanted), spent)
    for key in wanted:
        run = by_due.get(key)
        if run is None or run.started_at is None:
            found.others.append("no row" if run is None else f"{run.status} {run.reason}")
            continue
        waited = await _waited(place, run)
        if waited:
            found.waited.append(waited)
        found.lateness.append((run.started_at - run.due).total_seconds() - waited)
    return found


async def _waited(place: Place, run: RunRow) -> float:
    """Return the seconds after its due time that Prefect showed as waiting for a slot."""
    states = await place.client.read_flow_run_states(UUID(run.flow_run_id))
    states.sort(key=lambda each: each.timestamp)
    waited = 0.0
    for state, after in pairwise(states):
        if state.name == prefect_states.WAITING_NAME:
            since = max(state.timestamp.timestamp(), run.due.timestamp())
            waited += max(0.0, after.timestamp.timestamp() - since)
    return waited


def table(measured: Measured) -> str:
    """Return the figures as Markdown."""
    by_hand = measured.by_hand
    run, idle = measured.run, measured.idle
    lines = [
        head("what", "measured", "wanted"),
        _row(f"by hand: lateness, median of {len(by_hand)}", median(by_hand), "s", "< 0.4 s"),
        _row(f"… {worst_is(by_hand)}", worst(by_hand), "s"),
        _row("… CPU of worker and its processes, a run", run.worker, "s"),
        _row("… CPU of the server, a run", run.server, "s"),
        _row("… what else ran on the machine", run.others / run.seconds, "cores"),
        _row("idle: CPU of worker and parent", _percent(idle), "% of a core", "< 2 %"),
        _row("… memory of both (PSS)", measured.idle_memory / 1e6, "MB", "< 250 MB"),
    ]
    if (on := measured.scheduled) is not None and on.lateness:
        late, spent = on.lateness, on.spent
        what = f"on schedule, {MANY} jobs every {EVERY} s: "
        lines += [
            row(f"{what}ran, of the due times", f"{len(late)} of {on.due}", "all"),
            row("… began early", str(on.early), "0"),
            _row("… lateness, median", median(late), "s", "< 0.3 s"),
            _row(f"… {worst_is(late)}", worst(late), "s", "< 1.5 s"),
            row("… had to wait for a slot", f"{len(on.waited)}, {sum(on.waited):.1f} s in all", ""),
            _row("… what else ran on the machine", spent.others / spent.seconds, "cores"),
        ]
    return "\n".join(lines)


def missed(measured: Measured) -> list[str]:
    """Return the missed targets."""
    bounds = [
        ("by hand, median seconds", median(measured.by_hand), 0.4),
        ("idle: % of a core", _percent(measured.idle), 2.0),
        ("idle: MB", measured.idle_memory / 1e6, 250.0),
    ]
    found = list[str]()
    if (on := measured.scheduled) is not None:
        if on.early or on.others or not on.lateness:
            found.append(f"on schedule: {on.early} early, not run: {on.others}")
        if on.lateness:
            bounds += [
                ("on schedule, median seconds", median(on.lateness), 0.3),
                ("on schedule, p99 seconds", worst(on.lateness), 1.5),
            ]
    worse = (each for each in bounds if each[1] >= each[2])
    return found + [f"{what}: {value:.3g}, wanted < {most}" for what, value, most in worse]


def _percent(idle: Spent) -> float:
    return 100 * idle.worker / idle.seconds


def _row(what: str, value: float, unit: str, wanted: str = "") -> str:
    return row(what, f"{short(value)} {unit}", wanted)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
