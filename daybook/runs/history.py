"""Queries for past and live runs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, func, true
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import defer
from sqlmodel import col, select

from daybook.errors import Ambiguous, NotFound
from daybook.jobs import store
from daybook.ledger import job_kinds, references
from daybook.ledger.references import Match, Noun
from daybook.ledger.states import FAILURES, HELD, LIVE, Status, Usage
from daybook.ledger.tables import JobRow, RunRow

MAX_EMPTY_ANSWERS = 3
"""Number of empty answers in a row that are a finding."""

_WITHOUT_FOUND = defer(RunRow.found)  # type: ignore[arg-type]
"""Lists do not read `RunRow.found`: the payload of a request to a hook may have 25 MiB."""

RunAndJob = tuple[RunRow, JobRow | None]
"""A run and its job; the job may be archived, and is None for a direct call."""


async def recent(
    session: AsyncSession,
    job_id: str | None,
    limit: int,
    *,
    owner: str | None = None,
    conditions: Sequence[ColumnElement[bool]] = (),
    order: ColumnElement[Any] | None = None,
) -> Sequence[RunAndJob]:
    """Return up to ``limit`` runs, latest due time first. ``job_id`` is None for all jobs.

    With ``owner``, return only runs of that owner's jobs. ``conditions`` on the run and its job
    restrict the runs further. With ``order``, sort by ``order`` first. The runs have no `found`.
    """
    runs = _runs(owner).order_by(
        *([] if order is None else [order]),
        col(RunRow.due).desc(),
        col(RunRow.queued_at).desc(),
        col(RunRow.id),
    )
    if job_id is not None:
        runs = runs.where(col(RunRow.job_id) == job_id)
    return await _all(session, runs.where(*conditions).limit(limit).options(_WITHOUT_FOUND))


async def running_jobs(session: AsyncSession) -> set[str | None]:
    """Return the ids of the jobs that have a claimed or running run; None for direct calls."""
    rows = select(RunRow.job_id).where(col(RunRow.status).in_(HELD)).distinct()
    return set((await session.execute(rows)).scalars())


async def last_failures(
    session: AsyncSession, job_ids: Collection[str]
) -> dict[str | None, tuple[str, str]]:
    """Return the id and the status of each job's newest failed run, by job id."""
    if not job_ids:
        return {}
    newest = (
        select(RunRow.job_id, func.max(RunRow.finished_at).label("at"))
        .where(col(RunRow.status).in_(FAILURES), col(RunRow.job_id).in_(job_ids))
        .group_by(col(RunRow.job_id))
        .subquery()
    )
    query = select(RunRow.job_id, RunRow.id, RunRow.status).join(
        newest,
        (col(RunRow.job_id) == newest.c.job_id) & (col(RunRow.finished_at) == newest.c.at),
    )
    failed = query.where(col(RunRow.status).in_(FAILURES))
    return {job: (run, status) for job, run, status in (await session.execute(failed)).tuples()}


async def without_answers(
    session: AsyncSession, owner: str | None = None
) -> list[tuple[str, str, str]]:
    """Return id, name and last run of each job whose last `MAX_EMPTY_ANSWERS` answers are empty.

    A run that was skipped, missed or failed has no answer, so it is neither empty nor not. With
    ``owner``, search only that owner's jobs.
    """
    is_answer = (
        (col(RunRow.status) == Status.SUCCEEDED)
        & (col(RunRow.attempts) > 0)
        & col(RunRow.kind).in_(job_kinds.ASK_AGENTS)
    )
    last = (
        select(JobRow.id, JobRow.name, RunRow.id)
        .join(RunRow, col(RunRow.id) == col(JobRow.last_run_id))
        .where(
            col(JobRow.archived_at).is_(None),
            col(JobRow.last_status) == Status.SUCCEEDED,
            is_answer,
            col(RunRow.output) == "",
            true() if owner is None else col(JobRow.owner) == owner,
        )
        .order_by(col(JobRow.name))
    )
    found = []
    for job_id, name, run_id in (await session.execute(last)).tuples().all():
        newest = (
            select(RunRow.output)
            .where(col(RunRow.job_id) == job_id, is_answer)
            .order_by(col(RunRow.due).desc())
            .limit(MAX_EMPTY_ANSWERS)
        )
        if [*(await session.execute(newest)).scalars()] == [""] * MAX_EMPTY_ANSWERS:
            found.append((job_id, name, run_id))
    return found


def in_scope(owner: str | None) -> ColumnElement[bool]:
    """Return the condition for the runs of that owner's jobs, or for all runs."""
    return true() if owner is None else col(JobRow.owner) == owner


async def find(session: AsyncSession, ref: str, *, owner: str | None = None) -> RunAndJob:
    """Return the run (of ``owner``'s jobs) with this id or unique short id.

    Raise `NotFound`, `Ambiguous`.
    """
    match = await references.resolve(session, ref, {references.RUN: in_scope(owner)})
    return (await _all(session, _runs().where(col(RunRow.id) == match.id)))[0]


async def find_or_job(
    session: AsyncSession,
    ref: str,
    *,
    archived: bool = False,
    owner: str | None = None,
    noun: Noun = references.RUN,
) -> Match:
    """Return the run, approval or job that ``ref`` stands for; raise `NotFound`, `Ambiguous`.

    ``archived`` and ``owner`` are those of `store.find`. The errors name ``noun``.
    """
    jobs = {references.JOB: store.in_scope(archived=archived, owner=owner)}
    scope = {references.RUN: in_scope(owner), **jobs}
    return await references.resolve(session, ref, scope if noun is references.RUN else jobs | scope)


async def find_logged(session: AsyncSession, ref: str, *, owner: str | None = None) -> RunAndJob:
    """Return the newest run of the job ``ref`` that has a Prefect run, or the run ``ref``.

    ``ref`` is the name, id or unique short id of a job, even a removed one, or the id or unique
    short id of a run. With ``owner``, search only that owner's jobs and their runs. Raise
    `NotFound`, also if there is no Prefect run, and `Ambiguous`.
    """
    match = await find_or_job(session, ref, archived=True, owner=owner)
    if match.noun is references.RUN:
        runs = _runs().where(col(RunRow.id) == match.id)
    else:
        runs = _runs().where(col(RunRow.job_id) == match.id, col(RunRow.flow_run_id).is_not(None))
    newest = runs.order_by(col(RunRow.due).desc(), col(RunRow.queued_at).desc())
    matches = await _all(session, newest.limit(1))
    if not matches or matches[0][0].flow_run_id is None:
        raise NotFound("run", ref, f'Prefect has no run, and so no log, of "{ref}"')
    return matches[0]


async def find_live(session: AsyncSession, ref: str, *, owner: str | None = None) -> RunAndJob:
    """Return the only live run of the job ``ref``, or the run ``ref``, live or ended, of ``owner``.

    Raise `NotFound` and `Ambiguous`, also for a job without or with several live runs.
    """
    match = await find_or_job(session, ref, owner=owner)
    if match.noun is references.RUN:
        return await find(session, match.id)
    return await only_live(session, match.id, ref)


async def only_live(session: AsyncSession, job_id: str, ref: str) -> RunAndJob:
    """Return the only live run of the job ``ref``; raise `NotFound`, `Ambiguous`."""
    of_job = _runs().where(col(RunRow.job_id) == job_id, col(RunRow.status).in_(LIVE))
    matches = await _all(session, of_job.limit(5))
    if len(matches) > 1:
        ids = [row.id for row, _ in matches]
        raise Ambiguous("run", ref, ids, f'job "{ref}" has several active runs')
    if not matches:
        raise NotFound("run", ref, f'job "{ref}" has no active run')
    return matches[0]


async def ended_since(
    session: AsyncSession, instant: datetime, after: str = "", limit: int = 100
) -> Sequence[RunAndJob]:
    """Return up to ``limit`` runs that ended at ``instant`` (UTC) or later, earliest end first.

    Runs that ended at the same instant are sorted by id. Of the runs that ended exactly at
    ``instant``, leave out the runs with ids up to ``after``.
    """
    finished_at, run_id = col(RunRow.finished_at), col(RunRow.id)
    is_later = (finished_at > instant) | ((finished_at == instant) & (run_id > after))
    ended = (
        _runs()
        .where(is_later, col(RunRow.status).not_in(LIVE))
        .order_by(col(RunRow.finished_at), col(RunRow.id))
        .limit(limit)
    )
    return await _all(session, ended)


async def ended_runs(
    session: AsyncSession, instant: datetime
) -> Sequence[tuple[str, int, Usage | None]]:
    """Return outcome, due times and usage of each run that ended since ``instant`` (UTC)."""
    ended = select(RunRow.status, RunRow.count, RunRow.usage).where(
        col(RunRow.finished_at) >= instant, col(RunRow.status).not_in(LIVE)
    )
    return (await session.execute(ended)).tuples().all()


async def live(session: AsyncSession) -> Sequence[RunRow]:
    """Return the runs that have not ended, earliest due time first, without their `found`."""
    rows = select(RunRow).where(col(RunRow.status).in_(LIVE)).order_by(col(RunRow.due))
    return (await session.execute(rows.options(_WITHOUT_FOUND))).scalars().all()


def _runs(owner: str | None = None) -> Select[RunAndJob]:
    runs = select(RunRow, JobRow).outerjoin(JobRow, col(JobRow.id) == col(RunRow.job_id))
    return runs if owner is None else runs.where(col(JobRow.owner) == owner)


async def _all(session: AsyncSession, runs: Select[RunAndJob]) -> Sequence[RunAndJob]:
    return (await session.execute(runs)).tuples().all()
