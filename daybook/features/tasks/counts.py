"""Counts of tasks and task sessions."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy
from sqlalchemy import case, func
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook.features.tasks import matching, pause, sessions
from daybook.features.tasks.pause import PauseState
from daybook.features.tasks.states import ENDED, LIVE, TaskRunStatus
from daybook.features.tasks.tables import TaskRow, TaskRunRow

DAY = timedelta(days=1)


@dataclass(frozen=True)
class TaskCounts:
    """Counts of task runs and live sessions.

    ``live`` and ``ended_last_day`` (the last 24 hours) count runs by status. ``oldest`` is the time
    (UTC) at which the longest waiting run was queued; None if no run is queued. ``starving`` counts
    queued runs of tasks that are not paused, if they had a starving cycle since they were last
    claimed or recovered. ``attention`` counts the runs that need an operator, including queued runs
    about which the operator was alerted. ``free`` counts the live sessions that are idle, are not
    prompting and hold no run; ``busy`` counts the other live sessions.
    """

    live: dict[TaskRunStatus, int]
    ended_last_day: dict[TaskRunStatus, int]
    oldest: datetime | None
    starving: int
    attention: int
    free: int
    busy: int
    pause: PauseState


async def read_counts(session: AsyncSession, now: datetime) -> TaskCounts:
    """Return the counts at ``now``."""
    run = TaskRunRow
    starves = (col(run.starved_cycles) > 0) & col(TaskRow.paused).is_(False)
    by_status = (
        sqlalchemy.select(
            col(run.status),
            func.count(),
            func.min(col(run.queued_at)),
            func.sum(case((starves, 1), else_=0)),
            func.sum(case((col(run.attention) != "", 1), else_=0)),
        )
        .join(TaskRow, col(TaskRow.id) == col(run.task_id))
        .where(col(run.finished_at).is_(None))
    )
    live = {
        TaskRunStatus(row[0]): row[1:]
        for row in (await session.execute(by_status.group_by(col(run.status)))).all()
    }
    queued = live.get(TaskRunStatus.QUEUED, (0, None, 0, 0))
    ended = select(run.status, func.count()).where(col(run.finished_at) >= now - DAY)
    last_day = dict((await session.execute(ended.group_by(run.status))).tuples().all())
    candidates = [each for _, each in await sessions.live_sessions(session, now)]
    free = sum(not matching.busy_reason(each, now) for each in candidates)
    return TaskCounts(
        live={each: live[each][0] if each in live else 0 for each in sorted(LIVE)},
        ended_last_day={each: last_day.get(each, 0) for each in sorted(ENDED)},
        oldest=queued[1],
        starving=int(queued[2]),
        attention=int(queued[3]) + live.get(TaskRunStatus.NEEDS_ATTENTION, (0,))[0],
        free=free,
        busy=len(candidates) - free,
        pause=await pause.read(session),
    )
