"""Jobs that run after another job (`daybook.schedules.schedule.After`).

======================================  ==========================================================
outcome of the run                      jobs that it starts
======================================  ==========================================================
`succeeded`                             jobs after its success, and jobs after any outcome
`failed`, `timed_out`, `unknown`        jobs after its failure, and jobs after any outcome
`skipped`, `missed`, `cancelled`        none
======================================  ==========================================================

One transaction writes the outcome and the runs that it starts, so no crash can lose or repeat a
run. The key of such a run is ``after:<job>:<run that ended>``. If the outcome `unknown` has started
a job, the correction of this outcome does not start the job again. No outcome starts a disabled or
snoozed job. The run of a job that cannot be read is missed.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook.jobs import store
from daybook.jobs.store import StoredJob
from daybook.ledger import triggers
from daybook.ledger.states import FAILURES, Status
from daybook.ledger.tables import JobRow, RunRow
from daybook.runs import rows

_STARTED_BY = {
    "succeeded": frozenset({Status.SUCCEEDED}),
    "failed": FAILURES,
    "any": FAILURES | {Status.SUCCEEDED},
}


async def start(
    session: AsyncSession, ended: RunRow, now: datetime, *, late: bool
) -> list[tuple[RunRow, str]]:
    """Request a run of each job that the outcome of ``ended`` starts.

    ``late`` is True if the outcome corrects an `unknown`. Return the runs that are missed because
    their job cannot be read, and the reason; they are not stored yet.
    """
    job = await session.get(JobRow, ended.job_id) if ended.job_id else None
    if job is None or ended.state not in _STARTED_BY["any"]:
        return []
    if job.archived_at is not None and await store.named(session, job.owner, job.name):
        return []  # the jobs run after a new job of this name, not after this removed one
    missed = []
    for each in await store.jobs_after(session, job.owner, job.name):
        snoozed_until = each.row.snoozed_until
        starts = _STARTED_BY[_outcomes(each)]
        if ended.state not in starts or (late and Status.UNKNOWN in starts):
            continue
        if not each.revision.enabled or (snoozed_until and snoozed_until > now):
            continue
        key = f"{triggers.AFTER.name}:{each.id}:{ended.id}"
        same = select(RunRow.id).where(col(RunRow.occurrence) == key)
        if late and (await session.execute(same)).first() is not None:
            continue  # `unknown` started it, and the job was edited since
        if each.problem is not None:
            row = rows.of_unreadable_job(each, key, triggers.AFTER.name, now)
            missed.append((row, f"after {job.name}: {each.problem}"))
            continue
        session.add(
            rows.wait(
                rows.of_job(each, key, triggers.AFTER.name, now, now), now, f"after {job.name}"
            )
        )
    return missed


def _outcomes(stored: StoredJob) -> str:
    """Return the outcomes after which the job runs, even if other fields are not valid."""
    schedule: Any = stored.revision.schedule
    on = schedule.get("on") if isinstance(schedule, dict) else None
    return on if on in _STARTED_BY else "any"
