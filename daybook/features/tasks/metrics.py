"""The metrics of tasks."""

from __future__ import annotations

from datetime import datetime

from prometheus_client import Metric
from sqlalchemy.ext.asyncio import AsyncSession

from daybook.features.tasks.counts import read_counts
from daybook.web.metrics import gauge, labelled_gauge


async def metrics(session: AsyncSession, now: datetime) -> list[Metric]:
    """Return the metrics of tasks, their runs and task sessions at ``now``."""
    found = await read_counts(session, now)
    age = 0.0 if found.oldest is None else (now - found.oldest).total_seconds()
    live = {str(status): count for status, count in found.live.items()}
    day = {str(status): count for status, count in found.ended_last_day.items()}
    return [
        labelled_gauge(
            "tasks_live", "Runs of tasks that have not ended, by status.", "status", live
        ),
        gauge(
            "tasks_oldest_queued_seconds",
            "Age of the oldest queued run of a task in seconds.",
            max(0.0, age),
        ),
        gauge(
            "tasks_starving",
            "Queued runs of tasks that have starved since their last claim or recovery, except "
            "those of paused tasks.",
            found.starving,
        ),
        gauge("tasks_attention", "Runs of tasks that need an operator.", found.attention),
        labelled_gauge(
            "tasks_sessions",
            "Task sessions, by whether they can claim a run now.",
            "state",
            {"free": found.free, "busy": found.busy},
        ),
        gauge("tasks_paused", "Whether the task scheduler is paused.", found.pause.paused),
        labelled_gauge(
            "tasks_ended_last_day", "Runs of tasks that ended in the last 24 hours.", "status", day
        ),
    ]
