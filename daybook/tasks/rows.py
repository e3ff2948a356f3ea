"""Finding the rows of tasks and their runs, changing who holds one, and writing down what happened.

All take a session of a ledger; what changes a row needs one of `Ledger.write`.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ColumnElement
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook.delivery import outbox
from daybook.errors import one_line
from daybook.ledger.task_tables import TaskEventRow, TaskRow, TaskRunRow, TaskSessionRow
from daybook.tasks import states
from daybook.tasks.states import ENDED, Status

SCHEDULER = "scheduler"
"""The actor of what nobody asked for."""


def at_work(now: datetime) -> ColumnElement[bool]:
    """Of runs: a session holds it, and its lease is not over."""
    return col(TaskRunRow.session_id).is_not(None) & (col(TaskRunRow.lease_until) > now)


async def task_of(session: AsyncSession, run: TaskRunRow) -> TaskRow:
    """The task that the run is a try at."""
    task = await session.get(TaskRow, run.task_id)
    assert task is not None  # a foreign key
    return task


async def newest(session: AsyncSession, task_id: str) -> TaskRunRow:
    """The last run of a task: it has at least one."""
    runs = select(TaskRunRow).where(col(TaskRunRow.task_id) == task_id)
    last = runs.order_by(col(TaskRunRow.number).desc()).limit(1)
    row: TaskRunRow = (await session.execute(last)).scalar_one()
    return row


async def holder(session: AsyncSession, run: TaskRunRow) -> TaskSessionRow | None:
    """The session that holds the run; None where none does."""
    return None if run.session_id is None else await session.get(TaskSessionRow, run.session_id)


def move(run: TaskRunRow, new: Status, now: datetime) -> None:
    """Take a run that nobody is to hold any more to another state: its token is over.

    One that is queued again keeps its place; `requeue` gives it a new one.
    """
    states.check(run.id, Status(run.status), new)
    run.status = new
    run.session_id = run.token_digest = run.lease_until = run.lease_seconds = None
    if new is Status.QUEUED:
        run.claimed_at = None
    if new in ENDED:
        run.finished_at, run.attention = now, ""


def requeue(run: TaskRunRow, now: datetime) -> None:
    """Back into the queue, as if it came now."""
    move(run, Status.QUEUED, now)
    run.queued_at = now


def note(
    session: AsyncSession,
    run: TaskRunRow,
    event: str,
    now: datetime,
    *,
    actor: str,
    reason: str = "",
    of: TaskSessionRow | None = None,
    outbox_id: str | None = None,
) -> TaskEventRow:
    """Write down what happened to a run, by whom, and ``of`` which session, if of one."""
    row = TaskEventRow(
        run_id=run.id,
        at=now,
        event=event,
        actor=actor,
        reason=reason,
        session_id=None if of is None else of.id,
        session="" if of is None else of.name,
        outbox_id=outbox_id,
    )
    session.add(row)
    return row


async def alert(session: AsyncSession, run: TaskRunRow, what: str, now: datetime) -> None:
    """Tell the operator that somebody should look at the run: once a claim, and for each of the
    two things that lead to it, that it `expired` or `starved`.
    """
    task = await task_of(session, run)
    why = run.attention[:1].upper() + run.attention[1:]
    await outbox.tell(
        session,
        key=f"task-attention:{run.id}:{run.fence}:{what}",
        purpose=outbox.ALERT,
        event=Status.NEEDS_ATTENTION,
        channel=outbox.operators_channel(),
        subject=f"task needs attention: {one_line(task.title, 200)}",
        body=f"{why}\ndaybook task show {run.id[:12]}",
        now=now,
    )
