"""Restart test: everything is killed at once and started again later, and each job catches up.

::

    first due times ──► kill ─────────── later due times pass ───────► restart ──────► end
    their runs are active       └── downtime_seconds ──┘               the latest due time runs

Each job is due shortly before the kill, so that a run is active, and again during the outage or
soon after. Its latest due time that is inside its catch-up window after the restart must run.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from chaos.cluster import Cluster
from chaos.faults import KILL_EVERYTHING, Fault, InjectedFault
from chaos.workload import Workload, is_due
from daybook.clock import SYSTEM_CLOCK
from daybook.ledger.tables import RunRow

FIRST_DUE_SECONDS = 40.0
"""Time between the expected addition of the last job and the first due time."""
BEFORE_KILL_SECONDS = 15.0
"""Time before the kill in which each job is due."""
AGENT_SECONDS = (5.0, 20.0)
"""Duration of each agent's work."""
MAX_EFFECT_SECONDS = 20.0
"""Longest duration of a request's effect."""
CLAIM_SECONDS = 30.0
"""Time within which the workers claim after the server answers again."""
AFTER_RESTART_SECONDS = 120.0
"""Time after the restart in which jobs are due."""
MIN_WINDOW = timedelta(minutes=1)
"""Smallest catch-up window: how late a claim is still allowed (docs/promise.md, rule 9)."""


@dataclass(frozen=True)
class Restart:
    """Kill at ``at``; ``schedules`` are those of the jobs, due every ``minutes``."""

    at: datetime
    downtime_seconds: float
    minutes: int
    schedules: tuple[dict[str, str], ...]

    @property
    def end(self) -> datetime:
        """Return the latest possible due time."""
        return self.at + timedelta(seconds=self.downtime_seconds + AFTER_RESTART_SECONDS)


def draw_restart(
    draw: random.Random, jobs: int, downtime_seconds: float, start: datetime
) -> Restart:
    """Draw a kill soon after ``start``, and a schedule for each job, due right before the kill."""
    at = start.replace(microsecond=0) + timedelta(seconds=FIRST_DUE_SECONDS + BEFORE_KILL_SECONDS)
    minutes = max(1, round(downtime_seconds * 0.75 / 60))
    schedules = list[dict[str, str]]()
    for _ in range(jobs):
        first = at - timedelta(seconds=draw.randint(1, int(BEFORE_KILL_SECONDS)))
        count = int((downtime_seconds + AFTER_RESTART_SECONDS) // (60 * minutes)) + 2
        of_hour = sorted({(first.minute + step * minutes) % 60 for step in range(count)})
        field = "*" if minutes == 1 else ",".join(map(str, of_hour))
        schedules.append({"cron": f"{first.second} {field} * * * *"})
    return Restart(at, downtime_seconds, minutes, tuple(schedules))


async def kill_and_restart(cluster: Cluster, restart: Restart) -> tuple[InjectedFault, datetime]:
    """Kill everything at ``restart.at``, and start it again after the downtime.

    Return the kill, and the instant at which the server answered again.
    """
    await SYSTEM_CLOCK.wait_until(restart.at)
    started = SYSTEM_CLOCK.now().timestamp()
    await cluster.kill_all()
    ended = SYSTEM_CLOCK.now().timestamp()
    await asyncio.sleep(max(0.0, started + restart.downtime_seconds - ended))
    await cluster.start_all()
    fault = Fault(0.0, KILL_EVERYTHING, 0.0, restart.downtime_seconds)
    return InjectedFault(fault, started, ended, "everything"), SYSTEM_CLOCK.now()


def violations(
    workload: Workload,
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
    for name, job_id in sorted(workload.jobs.items()):
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
    if not any(_was_running(row, restart) for row in rows):
        found.append("nothing was running when everything was killed")
    return found


def _was_running(row: RunRow, restart: Restart) -> bool:
    """Return whether a run was running at the kill: it is unknown, or it was run again."""
    return row.due <= restart.at and (row.status == "unknown" or row.attempts > 1)


def latest_in_window(
    schedule: dict[str, str], restart: Restart, healthy_at: datetime
) -> datetime | None:
    """Return the latest due time before the workers claim again, if it may still run then."""
    claimed = (healthy_at + timedelta(seconds=CLAIM_SECONDS)).replace(microsecond=0)
    due = claimed
    while not is_due(schedule, due):
        due -= timedelta(seconds=1)
    if due <= restart.at:
        return None
    window = max(MIN_WINDOW, timedelta(minutes=restart.minutes) / 2)
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
