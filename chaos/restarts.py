"""Restart test: everything is killed at once and started again later, and each job catches up.

::

    first due times ──► kill ─────────── later due times pass ───────► restart ──────► end
    their runs are at work      └── restart_after ──┘                  the latest due time runs

Each job is due shortly before the kill, so that a run is at work, and again during the outage or
soon after. Its latest due time that is inside its catch-up window after the restart must run.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from chaos.faults import EVERYTHING, Fault, Struck
from chaos.place import Place
from chaos.work import Work, is_due
from daybook.clock import SYSTEM_CLOCK
from daybook.ledger.tables import RunRow

FIRST = 40.0
"""Seconds between the expected addition of the last job and the first due time."""
AT_WORK = 15.0
"""Seconds before the kill in which each job is due."""
NAPS = (5.0, 20.0)
"""Duration of an agent's run in seconds."""
LONGEST = 20.0
"""Longest duration of a request's effect in seconds."""
CLAIMED = 30.0
"""Seconds within which the workers claim after the server answers again."""
TAIL = 120.0
"""Seconds after the restart until which jobs are due."""
WINDOW = timedelta(minutes=1)
"""Smallest catch-up window: how late a claim is still allowed (docs/promise.md, rule 9)."""


@dataclass(frozen=True)
class Restart:
    """Kill at ``at``; ``schedules`` are those of the jobs, due every ``minutes``."""

    at: datetime
    after: float
    minutes: int
    schedules: tuple[dict[str, str], ...]

    @property
    def end(self) -> datetime:
        """Return the latest possible due time."""
        return self.at + timedelta(seconds=self.after + TAIL)


def drawn(draw: random.Random, many: int, after: float, start: datetime) -> Restart:
    """Draw a kill soon after ``start`` and ``many`` schedules with a due time right before it."""
    at = start.replace(microsecond=0) + timedelta(seconds=FIRST + AT_WORK)
    minutes = max(1, round(after * 0.75 / 60))
    schedules = list[dict[str, str]]()
    for _ in range(many):
        first = at - timedelta(seconds=draw.randint(1, int(AT_WORK)))
        count = int((after + TAIL) // (60 * minutes)) + 2
        of_hour = sorted({(first.minute + step * minutes) % 60 for step in range(count)})
        every = "*" if minutes == 1 else ",".join(map(str, of_hour))
        schedules.append({"cron": f"{first.second} {every} * * * *"})
    return Restart(at, after, minutes, tuple(schedules))


@dataclass
class Restarted:
    """``struck`` is the kill; ``healthy_at`` is when the server answered again."""

    struck: Struck
    healthy_at: datetime


async def strike(place: Place, restart: Restart) -> Restarted:
    """Kill everything at ``restart.at`` and start it again ``restart.after`` seconds later."""
    await SYSTEM_CLOCK.wait_until(restart.at)
    began = SYSTEM_CLOCK.now().timestamp()
    await place.kill_all()
    ended = SYSTEM_CLOCK.now().timestamp()
    await asyncio.sleep(max(0.0, began + restart.after - ended))
    await place.start_all()
    fault = Fault(0.0, EVERYTHING, 0.0, restart.after)
    return Restarted(Struck(fault, began, ended, "everything"), SYSTEM_CLOCK.now())


def wrong(
    work: Work,
    schedules: dict[str, dict[str, str]],
    rows: Sequence[RunRow],
    restart: Restart,
    healthy_at: datetime,
) -> list[str]:
    """Return the violations of the promise that each job catches up and that nothing runs twice.

    ``schedules`` are the stored ones by job id, as `is_due` reads them.
    """
    found = list[str]()
    checked = 0
    for name, job_id in sorted(work.jobs.items()):
        latest = latest_in_window(schedules[job_id], restart, healthy_at)
        if latest is None:
            continue
        checked += 1
        of_job = [row for row in rows if row.job_id == job_id]
        own = [row for row in of_job if row.due == latest]
        if not _ran(own[0] if own else None, of_job, restart):
            outcome = f"{own[0].status} ({own[0].reason})" if own else "no row"
            found.append(f"the latest due time did not run: {name} {latest:%H:%M:%S}: {outcome}")
    found += [
        f"ran {row.attempts} times: {row.occurrence}"
        for row in rows
        if row.attempts > 1 and row.parameters.get("policy", {}).get("on_lost") != "rerun"
    ]
    if not checked:
        found.append("no job had a due time inside its window after the restart")
    if not any(_was_at_work(row, restart) for row in rows):
        found.append("nothing was at work when everything was killed")
    return found


def _was_at_work(row: RunRow, restart: Restart) -> bool:
    """Return whether a run was at work at the kill: it is unknown, or it was run again."""
    return row.due <= restart.at and (row.status == "unknown" or row.attempts > 1)


def latest_in_window(
    schedule: dict[str, str], restart: Restart, healthy_at: datetime
) -> datetime | None:
    """Return the latest due time before the workers claim again, if still inside its window."""
    claimed = (healthy_at + timedelta(seconds=CLAIMED)).replace(microsecond=0)
    due = claimed
    while not is_due(schedule, due):
        due -= timedelta(seconds=1)
    if due <= restart.at:
        return None
    window = max(WINDOW, timedelta(minutes=restart.minutes) / 2)
    return due if claimed - due <= window else None


def _ran(row: RunRow | None, of_job: Sequence[RunRow], restart: Restart) -> bool:
    """Return whether the due time ran, or was skipped for one after the kill that ran."""
    if row is None:
        return False
    if row.attempts:
        return row.status == "succeeded"
    ended = row.finished_at
    return row.status == "skipped" and any(
        each.due > restart.at and each.status == "succeeded" and ended and each.due <= ended
        for each in of_job
    )
