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
snoozed job.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook.jobs import store
from daybook.jobs.store import StoredJob
from daybook.ledger.states import FAILURES, Status
from daybook.ledger.tables import RunRow
from daybook.runs import rows
from daybook.schedules.schedule import After

AFTER = "after"
"""The trigger of a run that another run's outcome started."""

_STARTED_BY = {
    "succeeded": frozenset({Status.SUCCEEDED}),
    "failed": FAILURES,
    "any": FAILURES | {Status.SUCCEEDED},
}


async def start(
    session: AsyncSession, ended: RunRow, stored: StoredJob | None, now: datetime, *, late: bool
) -> None:
    """Request a run of each job that the outcome of ``ended`` starts.

    ``stored`` is the job of ``ended``; if it is None, the outcome starts no job. ``late`` is True
    if the outcome corrects an `unknown`.
    """
    if stored is None or ended.state not in _STARTED_BY["any"]:
        return
    owner, name = stored.row.owner, stored.row.name
    if stored.row.archived_at is not None and await store.named(session, owner, name):
        return  # the jobs run after a new job of this name, not after this removed one
    for each in await store.jobs_after(session, owner, name):
        schedule, snoozed_until = each.job.schedule, each.row.snoozed_until
        assert isinstance(schedule, After)
        starts = _STARTED_BY[schedule.on]
        if ended.state not in starts or (late and Status.UNKNOWN in starts):
            continue
        if not each.job.enabled or (snoozed_until and snoozed_until > now):
            continue
        key = f"{AFTER}:{each.id}:{ended.id}"
        same = select(RunRow.id).where(col(RunRow.occurrence) == key)
        if late and (await session.execute(same)).first() is not None:
            continue  # `unknown` started it, and the job was edited since
        session.add(rows.wait(rows.of_job(each, key, AFTER, now, now), now, f"after {name}"))
