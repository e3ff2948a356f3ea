"""Lists of runs, newest first. They are fast in a ledger with hundreds of thousands of runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook.api import authorization
from daybook.api.filters import RunFilters
from daybook.delivery import history as deliveries
from daybook.delivery.views import ListedRun
from daybook.ledger.engine import open_ledger
from daybook.ledger.states import LIVE
from daybook.ledger.tables import JobRow, RunRow

ALL = RunFilters()


async def recent(
    job: str | None = None, limit: int = 50, filters: RunFilters = ALL
) -> list[ListedRun]:
    """Return up to ``limit`` runs: first the live runs, then the ended runs, latest end first.

    With ``job``, the ended runs are sorted by their due time instead. Unlike `runs.history`, this
    function reads at most twice ``limit`` rows. Works without Prefect. Raise `NotFound` or
    `Ambiguous` for the job, and `InvalidInput` for an invalid filter.
    """
    async with open_ledger() as ledger, ledger.read() as session:
        conditions, _ = await filters.conditions(session, ledger.now())
        if job is not None:
            stored = await authorization.find_job(session, job, archived=True)
            conditions.append(col(RunRow.job_id) == stored.id)
        if (owner := authorization.visible_owner()) is not None:
            conditions.append(col(JobRow.owner) == owner)
        last = col(RunRow.due).desc() if job else col(RunRow.finished_at).desc()
        return await _recent(session, limit, conditions, last)


async def of_job(session: AsyncSession, job_id: str, limit: int) -> list[ListedRun]:
    """Return the first ``limit`` runs of a job: live ones, then ended ones, the latest first."""
    return await _recent(session, limit, [col(RunRow.job_id) == job_id], col(RunRow.due).desc())


async def _recent(
    session: AsyncSession,
    limit: int,
    conditions: Sequence[ColumnElement[bool]],
    last: ColumnElement[Any],
) -> list[ListedRun]:
    runs = (
        select(RunRow, JobRow)
        .outerjoin(JobRow, col(JobRow.id) == col(RunRow.job_id))
        .where(*conditions)
        .limit(limit)
    )
    live = runs.where(col(RunRow.status).in_(LIVE)).order_by(col(RunRow.due).desc())
    ended = runs.where(col(RunRow.finished_at).is_not(None), col(RunRow.status).not_in(LIVE))
    ended = ended.order_by(last, col(RunRow.id))
    found = [*(await session.execute(live)).tuples(), *(await session.execute(ended)).tuples()]
    alerts = await deliveries.alert_statuses(session, [row.id for row, _ in found[:limit]])
    return [ListedRun.of(row, job, alert=alerts.get(row.id)) for row, job in found[:limit]]
