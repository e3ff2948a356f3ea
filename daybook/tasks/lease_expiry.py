"""Expiry of task leases: a session loses its run once `lease_until <= now`.

After the first and second expiry, the run is queued again as if it had just arrived. After the
third it needs attention: the operator is notified, and no session can claim the run until the
operator has acted. The next call of the late session is refused, because its token is invalid.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook.ledger.task_tables import TaskRunRow
from daybook.schedules import durations
from daybook.tasks import rows
from daybook.tasks.states import MAX_EXPIRIES, Status

MAX_EXPIRED_PER_PASS = 100
"""Number of leases that one pass expires."""


async def expire_leases(
    session: AsyncSession,
    now: datetime,
    limit: int = MAX_EXPIRED_PER_PASS,
    actor: str = rows.SCHEDULER,
) -> list[TaskRunRow]:
    """Expire at most ``limit`` leases, those that ended longest ago first; return their runs.

    A run that now needs attention says so in `status`, and why in `attention`.
    """
    expired = select(TaskRunRow).where(
        col(TaskRunRow.status) == Status.CLAIMED, col(TaskRunRow.lease_until) <= now
    )
    oldest = expired.order_by(col(TaskRunRow.lease_until), col(TaskRunRow.id)).limit(limit)
    expired_runs = list((await session.execute(oldest)).scalars())
    for run in expired_runs:
        await expire_lease(session, run, now, actor)
    return expired_runs


async def expire_lease(session: AsyncSession, run: TaskRunRow, now: datetime, actor: str) -> None:
    """Expire the lease of one run."""
    assert run.lease_until is not None and run.lease_until <= now
    late = durations.to_text(now - run.lease_until)
    session_row = await rows.holder(session, run)
    reason = f"its lease expired {late} ago"
    run.expiries += 1
    if run.expiries < MAX_EXPIRIES:
        rows.requeue(run, now)
        rows.record_event(session, run, "expired", now, actor=actor, reason=reason, of=session_row)
    else:
        rows.change_status(run, Status.NEEDS_ATTENTION, now)
        run.attention = f"its lease expired {run.expiries} times"
        rows.record_event(session, run, "expired", now, actor=actor, reason=reason, of=session_row)
        rows.record_event(session, run, "needs_attention", now, actor=actor, reason=run.attention)
        await rows.alert_operator(session, run, "expired", now)
    session.add(run)
    # The session may claim in this same transaction, and the ledger allows it one run only.
    await session.flush()
