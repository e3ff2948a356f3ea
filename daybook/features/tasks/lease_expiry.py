"""Expiry of task leases. From `lease_until` on, the ledger refuses the session's token.

After the first and second expiry, the run is queued again as if it had just arrived. After the
third expiry, the run needs attention: the operator is notified, and no session can claim the run
until the operator has acted. A recovery restarts the count.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook.features.tasks import rows
from daybook.features.tasks.policy import DEFAULTS, SchedulerPolicy
from daybook.features.tasks.states import MAX_EXPIRIES, TaskRunStatus
from daybook.features.tasks.tables import TaskRunRow
from daybook.schedules import durations


async def expire_leases(
    session: AsyncSession, now: datetime, policy: SchedulerPolicy = DEFAULTS
) -> list[TaskRunRow]:
    """Expire at most `sweep_limit` leases, in the order of their ends. Return their runs.

    If a run now needs attention, its `status` is `needs_attention` and its `attention` is the
    reason.
    """
    expired = select(TaskRunRow).where(
        col(TaskRunRow.status) == TaskRunStatus.CLAIMED, col(TaskRunRow.lease_until) <= now
    )
    oldest = expired.order_by(col(TaskRunRow.lease_until), col(TaskRunRow.id)).limit(
        policy.sweep_limit
    )
    expired_runs = list((await session.execute(oldest)).scalars())
    for run in expired_runs:
        await expire_lease(session, run, now, policy)
    return expired_runs


def requeues_on_expiry(run: TaskRunRow) -> bool:
    """Return whether the next expiry of the run's lease queues it again."""
    return run.expiries + 1 < MAX_EXPIRIES


async def expire_lease(
    session: AsyncSession, run: TaskRunRow, now: datetime, policy: SchedulerPolicy = DEFAULTS
) -> None:
    """Queue a run whose lease has ended. After too many expiries, mark it `needs_attention`."""
    assert run.lease_until is not None and run.lease_until <= now
    late = durations.to_text(now - run.lease_until)
    session_row = await rows.holder(session, run)
    actor, reason = policy.actor, policy.sweep_text(f"its lease expired {late} ago")
    requeues = requeues_on_expiry(run)
    run.expiries += 1
    if requeues:
        rows.requeue(run, now)
        rows.record_event(session, run, "expired", now, actor=actor, reason=reason, of=session_row)
    else:
        rows.change_status(run, TaskRunStatus.NEEDS_ATTENTION, now)
        run.attention = f"its lease expired {run.expiries} times"
        rows.record_event(session, run, "expired", now, actor=actor, reason=reason, of=session_row)
        rows.record_event(session, run, "needs_attention", now, actor=actor, reason=run.attention)
        await rows.alert_operator(session, run, "expired", now)
    session.add(run)
    # Write the change now: the session may claim in this same transaction, but may hold only one
    # run in the ledger.
    await session.flush()
