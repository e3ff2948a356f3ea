"""The part of the query that detects changes of the pages of tasks (`daybook.api.changes`)."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Select, func
from sqlmodel import col

from daybook.api.changes import one_if, part
from daybook.features.tasks import pause
from daybook.features.tasks.tables import TaskRow, TaskRunRow, TaskSessionRow
from daybook.ledger.tables import Fact


def parts() -> list[Select[Any]]:
    """Return the queries for queued and ended tasks, task sessions, and the scheduler's pause."""
    runs = TaskRunRow
    return [
        part(
            "queued tasks",
            func.count(col(runs.id)),
            func.count(col(runs.session_id)),
            func.sum(runs.fence),
            func.sum(runs.expiries),
            func.max(runs.queued_at),
            func.sum(one_if(col(runs.attention) != "")),
            func.sum(one_if(col(TaskRow.paused))),
        )
        .join(TaskRow, col(TaskRow.id) == col(runs.task_id))
        .where(col(runs.finished_at).is_(None)),
        part("ended tasks", func.max(runs.finished_at)),
        part(
            "task sessions",
            func.count(col(TaskSessionRow.id)),
            func.max(TaskSessionRow.registered_at),
            func.max(TaskSessionRow.idle_since),
            func.sum(one_if(col(TaskSessionRow.prompting))),
        ),
        part("task scheduler", Fact.value).where(col(Fact.key) == pause.FACT_KEY),
    ]
