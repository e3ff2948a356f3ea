"""Rows of tasks and their runs: queries, changes of the status, events, and alerts.

`record_event` and `alert_operator` need a session of `Ledger.write`. Rows that `change_status` and
`requeue` change must belong to such a session.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ColumnElement
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook.delivery import outbox
from daybook.features.tasks import states
from daybook.features.tasks.states import ENDED, TaskRunStatus
from daybook.features.tasks.tables import TaskEventRow, TaskRow, TaskRunRow, TaskSessionRow
from daybook.short_text import one_line


def is_leased(now: datetime) -> ColumnElement[bool]:
    """Return the condition for runs that a session holds with an unexpired lease."""
    return col(TaskRunRow.session_id).is_not(None) & (col(TaskRunRow.lease_until) > now)


async def task_of(session: AsyncSession, run: TaskRunRow) -> TaskRow:
    """Return the task of the run."""
    task = await session.get(TaskRow, run.task_id)
    assert task is not None  # the foreign key guarantees that the task exists
    return task


async def newest_run(session: AsyncSession, task_id: str) -> TaskRunRow:
    """Return the newest run of a task. Each task has at least one run."""
    runs = select(TaskRunRow).where(col(TaskRunRow.task_id) == task_id)
    last = runs.order_by(col(TaskRunRow.number).desc()).limit(1)
    row: TaskRunRow = (await session.execute(last)).scalar_one()
    return row


async def holder(session: AsyncSession, run: TaskRunRow) -> TaskSessionRow | None:
    """Return the session that holds the run, or None."""
    return None if run.session_id is None else await session.get(TaskSessionRow, run.session_id)


def change_status(run: TaskRunRow, new: TaskRunStatus, now: datetime) -> None:
    """Move a run to a state in which no session holds it, and make its token invalid.

    Unlike `requeue`, this function leaves a run that is queued again at its position in the queue.
    Raise `IllegalTransition`.
    """
    states.check(run.id, TaskRunStatus(run.status), new)
    run.status = new
    run.session_id = run.token_digest = run.lease_until = run.lease_seconds = None
    if new is TaskRunStatus.QUEUED:
        run.claimed_at = None
    if new in ENDED:
        run.finished_at, run.attention = now, ""


def requeue(run: TaskRunRow, now: datetime) -> None:
    """Queue the run again as if it had just arrived."""
    change_status(run, TaskRunStatus.QUEUED, now)
    run.queued_at = now


def record_event(
    session: AsyncSession,
    run: TaskRunRow,
    event: str,
    now: datetime,
    *,
    actor: str,
    reason: str = "",
    of: TaskSessionRow | None = None,
    outbox_id: str | None = None,
    claim_key: str | None = None,
) -> TaskEventRow:
    """Record an event of a run, and return its row. ``of`` is the session to which it belongs.

    ``claim_key`` is the idempotency key of a claim.
    """
    row = TaskEventRow(
        run_id=run.id,
        at=now,
        event=event,
        actor=actor,
        reason=reason,
        session_id=None if of is None else of.id,
        session="" if of is None else of.name,
        outbox_id=outbox_id,
        claim_key=claim_key,
        fence=run.fence if claim_key else None,
    )
    session.add(row)
    return row


async def alert_operator(session: AsyncSession, run: TaskRunRow, what: str, now: datetime) -> None:
    """Alert the operator about the run.

    ``what`` is `expired` or `starved`. At most one alert of each kind is sent between two claims of
    the run. The text of the alert is the run's `attention`.
    """
    task = await task_of(session, run)
    reason = run.attention[:1].upper() + run.attention[1:]
    await outbox.enqueue_message(
        session,
        key=f"task-attention:{run.id}:{run.fence}:{what}",
        purpose=outbox.ALERT,
        event=TaskRunStatus.NEEDS_ATTENTION,
        channel=outbox.operator_channel(),
        subject=f"task needs attention: {one_line(task.title, 200)}",
        body=f"{reason}\ndaybook task show {run.id[:12]}",
        now=now,
    )
