"""Rule of a restore: no session does a task again that another one may have done meanwhile."""

from __future__ import annotations

from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook.features.tasks import rows
from daybook.features.tasks.states import LIVE
from daybook.features.tasks.tables import TaskRow, TaskRunRow
from daybook.owners import current_actor
from daybook.runs.restored import Restore


async def pause_tasks(session: AsyncSession, restore: Restore) -> int:
    """Pause the tasks that are queued or claimed, until the operator resumes them.

    Return their number.
    """
    live = (
        select(TaskRunRow)
        .join(TaskRow, col(TaskRow.id) == col(TaskRunRow.task_id))
        .where(col(TaskRunRow.status).in_(LIVE), ~col(TaskRow.paused))
    )
    found = (await session.execute(live)).scalars().all()
    actor = current_actor().owner
    for run in found:
        rows.record_event(session, run, "paused", restore.at, actor=actor, reason=restore.reason)
    paused = update(TaskRow).where(col(TaskRow.id).in_([run.task_id for run in found]))
    await session.execute(paused.values(paused=True, paused_reason=restore.reason))
    return len({run.task_id for run in found})
