"""Ranges: adjacent due times that were missed or skipped share one row (`docs/promise.md` 10).

The row's `due` is the first due time of the range, `due_to` the last, and `count` their number. The
audit, and for a missed due time also the claim, extends the row of the preceding due time instead
of adding another row. So the result is the same whether the audit or the claim is first. A range
has no gaps: each due time of the job from `due` to `due_to` belongs to it.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ColumnElement
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook.jobs import store, upcoming
from daybook.jobs.store import StoredJob
from daybook.ledger.states import Status
from daybook.ledger.tables import RunRow
from daybook.runs import claim_requests, restored


async def range_covering(session: AsyncSession, job_id: str, due: datetime) -> RunRow | None:
    """Return the row of the range that includes the job's due time ``due``, or None.

    Return None also for an instant between two due times of a range, which Prefect may have queued
    by mistake.
    """
    row = await _last(session, job_id, col(RunRow.due) <= due)
    if row is None or row.due_to is None or due > row.due_to:
        return None
    stored = await store.in_force(session, job_id, due)
    if stored is None or not upcoming.is_due(stored.job.schedule, stored.job.policy, due):
        return None
    return row


async def range_before(
    session: AsyncSession, stored: StoredJob, due: datetime, status: Status, reason: str
) -> RunRow | None:
    """Return the row that ``due`` extends with this outcome; None if ``due`` needs its own row.

    ``stored`` is the job with the revision in force at ``due``; all due times of a range have the
    same revision, and reasons that `may_share_a_row`. A skipped row with a Prefect run stays alone.
    """
    row = await _last(session, stored.id, col(RunRow.due) < due)
    if row is None or (row.revision, row.status) != (stored.revision.number, status):
        return None
    if status is not Status.MISSED and row.flow_run_id:
        return None
    if not may_share_a_row(status, row.reason, reason):
        return None
    job = stored.job
    following = upcoming.next_due(job.schedule, job.policy, row.due_to or row.due)
    return row if following == due else None


def may_share_a_row(status: Status, one: str, other: str) -> bool:
    """Return whether adjacent due times with this outcome and these two reasons may share a row.

    Skipped due times need the same reason. A row shows only the last reason of missed ones, but
    keeps that of a restore: it says that the due times may have run.
    """
    if one == other or status is not Status.MISSED:
        return one == other
    return not (restored.is_reason(one) or restored.is_reason(other))


async def _last(session: AsyncSession, job_id: str, where: ColumnElement[bool]) -> RunRow | None:
    query = (
        select(RunRow)
        .where(col(RunRow.job_id) == job_id, where, claim_requests.HAS_DUE_KEY)
        .order_by(col(RunRow.due).desc())
        .limit(1)
    )
    row: RunRow | None = (await session.execute(query)).scalar_one_or_none()
    return row
