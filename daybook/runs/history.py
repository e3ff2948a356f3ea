"""Queries for past and live runs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook.errors import Ambiguous, NotFound
from daybook.jobs import store
from daybook.ledger.states import LIVE
from daybook.ledger.tables import JobRow, RunRow

RunAndJob = tuple[RunRow, JobRow | None]
"""A run and its job, which may already be archived; None for a direct call."""


async def recent(
    session: AsyncSession, job_id: str | None, limit: int, *, owner: str | None = None
) -> Sequence[RunAndJob]:
    """Return runs, newest first: of one job, of all jobs if ``job_id`` is None, or of ``owner``."""
    runs = _runs(owner).order_by(
        col(RunRow.due).desc(), col(RunRow.queued_at).desc(), col(RunRow.id)
    )
    if job_id is not None:
        runs = runs.where(col(RunRow.job_id) == job_id)
    return await _all(session, runs.limit(limit))


async def find(session: AsyncSession, ref: str, *, owner: str | None = None) -> RunAndJob:
    """Return the run with this id or unique id prefix; raises `NotFound`, `Ambiguous`.

    Here and below, ``owner`` restricts the search to the runs of that owner's jobs.
    """
    prefixed = _runs(owner).where(col(RunRow.id).startswith(ref, autoescape=True)).limit(5)
    matches = await _all(session, prefixed) if ref else []
    if len(matches) > 1:
        raise Ambiguous("run", ref, [row.id[:12] for row, _ in matches])
    if not matches:
        raise NotFound("run", ref)
    return matches[0]


async def find_logged(session: AsyncSession, ref: str, *, owner: str | None = None) -> RunAndJob:
    """Return the newest run of this job that Prefect knows, else the run with this id.

    Includes removed jobs. Raises `NotFound`, `Ambiguous`.
    """
    try:
        job_id = (await store.find(session, ref, archived=True, owner=owner)).id
    except NotFound:
        matches = [await find(session, ref, owner=owner)]
    else:
        of_job = _runs().where(col(RunRow.job_id) == job_id, col(RunRow.flow_run_id).is_not(None))
        newest = of_job.order_by(col(RunRow.due).desc(), col(RunRow.queued_at).desc())
        matches = list(await _all(session, newest.limit(1)))
    if not matches or matches[0][0].flow_run_id is None:
        raise NotFound("log of", ref)
    return matches[0]


async def find_live(session: AsyncSession, ref: str, *, owner: str | None = None) -> RunAndJob:
    """Return the one live run of this job, else the run with this id, ended or not.

    Raises `NotFound` (also for a job without a live run), `Ambiguous` for a job with several.
    """
    try:
        job_id = (await store.find(session, ref, owner=owner)).id
    except NotFound:
        return await find(session, ref, owner=owner)
    of_job = _runs().where(col(RunRow.job_id) == job_id, col(RunRow.status).in_(LIVE))
    matches = await _all(session, of_job.limit(5))
    if len(matches) > 1:
        raise Ambiguous("active run of", ref, [row.id[:12] for row, _ in matches])
    if not matches:
        raise NotFound("active run of", ref)
    return matches[0]


async def ended_since(
    session: AsyncSession, instant: datetime, limit: int = 100
) -> Sequence[RunAndJob]:
    """Return runs that ended at ``instant`` (UTC) or later, oldest first."""
    ended = (
        _runs()
        .where(col(RunRow.finished_at) >= instant, col(RunRow.status).not_in(LIVE))
        .order_by(col(RunRow.finished_at), col(RunRow.id))
        .limit(limit)
    )
    return await _all(session, ended)


async def live(session: AsyncSession) -> Sequence[RunRow]:
    """Return runs that have not ended, by due time."""
    rows = select(RunRow).where(col(RunRow.status).in_(LIVE)).order_by(col(RunRow.due))
    return (await session.execute(rows)).scalars().all()


def _runs(owner: str | None = None) -> Select[RunAndJob]:
    runs = select(RunRow, JobRow).outerjoin(JobRow, col(JobRow.id) == col(RunRow.job_id))
    return runs if owner is None else runs.where(col(JobRow.owner) == owner)


async def _all(session: AsyncSession, runs: Select[RunAndJob]) -> Sequence[RunAndJob]:
    return (await session.execute(runs)).tuples().all()
