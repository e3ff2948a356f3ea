"""Counts of jobs and runs, and recorded outcomes, for reports that refresh every few seconds.

The queries of runs use indexes: with 100,000 runs, each takes a few milliseconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy
from sqlalchemy import exists, func, literal_column
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook.ledger.states import LIVE, Status
from daybook.ledger.tables import NEWEST_REVISION, JobRow, RevisionRow, RunRow


async def jobs_by_enabled(session: AsyncSession) -> dict[bool, int]:
    """Return how many live jobs are enabled (key True), and how many are disabled (key False)."""
    counted = (
        select(RevisionRow.enabled, func.count())
        .join(JobRow, NEWEST_REVISION)
        .where(col(JobRow.archived_at).is_(None))
        .group_by(col(RevisionRow.enabled))
    )
    return {True: 0, False: 0} | dict((await session.execute(counted)).tuples().all())


async def live_by_status(session: AsyncSession) -> dict[str, int]:
    """Return how many runs are in each live state; a state without runs is absent."""
    counted = (
        select(RunRow.status, func.count())
        .where(col(RunRow.status).in_(LIVE))
        .group_by(col(RunRow.status))
    )
    return dict((await session.execute(counted)).tuples().all())


async def has_open_runs(session: AsyncSession) -> bool:
    """Return whether any run is live, or has an outcome that Prefect does not show yet."""
    live = exists().where(col(RunRow.status).in_(LIVE))
    unmirrored = exists().where(col(RunRow.unmirrored).is_(True))
    return bool((await session.execute(select(live | unmirrored))).scalar_one())


async def outcome_counts_since(session: AsyncSession, instant: datetime) -> dict[str, int]:
    """Return how many due times and requests ended at ``instant`` or later, by status.

    A row that stands for several due times counts each of them. A status with a sum of 0 is absent.
    """
    # Without `coalesce`, SQLite scans all runs in the order of status instead of sorting a few.
    status = func.coalesce(RunRow.status, literal_column("''"))
    counted = (
        select(status, func.sum(RunRow.count))
        .where(col(RunRow.finished_at) >= instant)
        .group_by(status)
    )
    return dict((await session.execute(counted)).tuples().all())


@dataclass(frozen=True)
class RecordedOutcome:
    """A run that has ended, with the number of its due times, and whether it has warnings.

    ``usage`` is the run's usage, None if it has none.
    """

    run_id: str
    job_id: str | None
    status: str
    count: int
    at: datetime
    has_warnings: bool = False
    usage: Mapping[str, Any] | None = None


_OUTCOMES = sqlalchemy.select(
    col(RunRow.id),
    col(RunRow.job_id),
    col(RunRow.status),
    col(RunRow.count),
    col(RunRow.finished_at),
    col(RunRow.warnings),
    col(RunRow.usage),
)


async def outcomes_since(session: AsyncSession, instant: datetime) -> list[RecordedOutcome]:
    """Return the outcomes that were recorded at ``instant`` or later."""
    return await _outcomes(session, _OUTCOMES.where(col(RunRow.finished_at) >= instant))


async def last_missed(session: AsyncSession) -> list[RecordedOutcome]:
    """Return, for each job, the missed row with the latest due time, however old it is."""
    last = (
        sqlalchemy.select(col(RunRow.job_id), func.max(RunRow.due).label("due"))
        .where(col(RunRow.status) == Status.MISSED, col(RunRow.job_id).is_not(None))
        .group_by(col(RunRow.job_id))
        .subquery()
    )
    query = _OUTCOMES.join(
        last, (col(RunRow.job_id) == last.c.job_id) & (col(RunRow.due) == last.c.due)
    ).where(col(RunRow.status) == Status.MISSED)
    return await _outcomes(session, query)


async def _outcomes(session: AsyncSession, query: sqlalchemy.Select[Any]) -> list[RecordedOutcome]:
    return [
        RecordedOutcome(run_id, job_id, ended_as, count, at, bool(warnings), usage)
        for run_id, job_id, ended_as, count, at, warnings, usage in (
            await session.execute(query)
        ).tuples()
        if at is not None
    ]


async def failing_jobs(session: AsyncSession, most: int) -> dict[str, int]:
    """Return the ``most`` highest counts of consecutive failures, as a mapping from job names.

    The highest comes first; removed jobs and jobs without failures are left out. If several owners
    have a job of the same name, the highest count is used.
    """
    times = func.max(col(JobRow.consecutive_failures))
    rows = (
        select(JobRow.name, times)
        .where(col(JobRow.archived_at).is_(None), col(JobRow.consecutive_failures) > 0)
        .group_by(col(JobRow.name))
        .order_by(times.desc(), col(JobRow.name))
        .limit(most)
    )
    return dict((await session.execute(rows)).tuples().all())
