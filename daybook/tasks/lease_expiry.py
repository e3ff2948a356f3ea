"""Taking back runs whose lease is over (requirement 48): `lease_until <= now`.

The first and second time the run is queued again, as if it came now. The third time it needs
attention: the operator is told, and until that one has looked nobody may claim it. Whoever was late
is told at its next word: its token is over.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook.ledger.task_tables import TaskRunRow
from daybook.schedules import durations
from daybook.tasks import rows
from daybook.tasks.states import MOST_EXPIRIES, Status

SWEEP_LIMIT = 100
"""The most that one pass takes back."""


async def sweep(
    session: AsyncSession, now: datetime, limit: int = SWEEP_LIMIT, actor: str = rows.SCHEDULER
) -> list[TaskRunRow]:
    """Take back at most ``limit``, those first whose lease has been over longest; returns them.

    One that needs attention now says so in `status`, and why in `attention`.
    """
    over = select(TaskRunRow).where(
        col(TaskRunRow.status) == Status.CLAIMED, col(TaskRunRow.lease_until) <= now
    )
    first = over.order_by(col(TaskRunRow.lease_until), col(TaskRunRow.id)).limit(limit)
    found = list((await session.execute(first)).scalars())
    for run in found:
        await take_back(session, run, now, actor)
    return found


async def take_back(session: AsyncSession, run: TaskRunRow, now: datetime, actor: str) -> None:
    """One whose lease is over."""
    assert run.lease_until is not None and run.lease_until <= now
    late = durations.to_text(now - run.lease_until)
    whose = await rows.holder(session, run)
    why = f"its lease was over {late} ago"
    run.expiries += 1
    if run.expiries < MOST_EXPIRIES:
        rows.requeue(run, now)
        rows.note(session, run, "expired", now, actor=actor, reason=why, of=whose)
    else:
        rows.move(run, Status.NEEDS_ATTENTION, now)
        run.attention = f"its lease was over {run.expiries} times"
        rows.note(session, run, "expired", now, actor=actor, reason=why, of=whose)
        rows.note(session, run, "needs_attention", now, actor=actor, reason=run.attention)
        await rows.alert(session, run, "expired", now)
    session.add(run)
    # Its session may claim in this transaction, and the ledger lets one hold one run.
    await session.flush()
