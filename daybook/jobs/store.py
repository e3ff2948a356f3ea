"""Jobs and their revisions (`docs/promise.md`, "Words").

Every change of when a job is due, what it does, how, and who is told makes a new revision, in force
from `effective_from` (strictly rising per job) to the next one's. Name, description and tags are of
the job itself. All functions take a session of `Ledger.write` or `Ledger.read`, and instants in
UTC.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, delete, func, true, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook import owners
from daybook.errors import Ambiguous, InvalidInput, NotFound
from daybook.jobs import provenance
from daybook.jobs.model import Job
from daybook.ledger.tables import JobRow, OutboxRow, RevisionRow

FIRED = "fired"
"""How the reason begins by which a one-time job was disabled after its time."""

FAILING = "paused after"
"""The same of a job that failed too often in a row."""

DONE = "max runs"
"""The same of a job that has had all its runs."""

FEW = 200
"""So many ids are asked for by name; more of them are picked out of all."""


@dataclass(frozen=True)
class StoredJob:
    """A job's row with one of its revisions, and the `Job` that the two make."""

    row: JobRow
    revision: RevisionRow
    job: Job

    @property
    def id(self) -> str:
        return self.row.id


def _compose(row: JobRow, revision: RevisionRow) -> StoredJob:
    job = Job.model_validate(
        {
            "name": row.name,
            "kind": row.kind,
            "description": row.description,
            "tags": row.tags,
            "metadata": row.meta,
            "enabled": revision.enabled,
            "action": revision.action,
            "schedule": revision.schedule,
            "policy": revision.policy,
            "notify": revision.notify,
        }
    )
    return StoredJob(row, revision, job)


def _revision(
    job_id: str, number: int, job: Job, effective_from: datetime, source: str
) -> RevisionRow:
    return RevisionRow(
        job_id=job_id,
        number=number,
        effective_from=effective_from,
        enabled=job.enabled,
        schedule=job.schedule.model_dump(mode="json"),
        action=job.action.model_dump(mode="json"),
        policy=job.policy.model_dump(mode="json"),
        notify=job.notify.model_dump(mode="json"),
        source=source,
    )


async def names(session: AsyncSession, owner: str) -> set[str]:
    """The names that are taken for a job of ``owner``.

    Each agent has names of its own, so that no refusal tells it of the jobs of others. All other
    owners share theirs.
    """
    whose = col(JobRow.owner) == owner if owners.is_agent(owner) else ~_of_agents()
    those = select(JobRow.name).where(col(JobRow.archived_at).is_(None), whose)
    return set((await session.execute(those)).scalars())


async def slugs(session: AsyncSession, kind: str) -> set[str]:
    """The deployment names that are taken among the jobs of this kind."""
    live = (col(JobRow.kind) == kind, col(JobRow.archived_at).is_(None))
    return set((await session.execute(select(JobRow.slug).where(*live))).scalars())


async def add(
    session: AsyncSession,
    job: Job,
    slug: str,
    now: datetime,
    owner: str = "user",
    *,
    user_id: str = "",
    created_by: str = "cli",
) -> StoredJob:
    """Store a new job; raises `InvalidInput` when its name is taken."""
    if job.name in await names(session, owner):
        raise InvalidInput("name", f'"{job.name}" is taken', "give another, or edit that job")
    row = JobRow(
        name=job.name,
        slug=slug,
        kind=job.kind,
        description=job.description,
        tags=list(job.tags),
        meta=dict(job.metadata),
        owner=owner,
        user_id=user_id,
        created_by=created_by,
        created_at=now,
        updated_at=now,
        audited_until=now,
    )
    session.add(row)
    await session.flush()
    revision = _revision(row.id, 1, job, now, "ledger")
    session.add(revision)
    return _compose(row, revision)


async def count_of(session: AsyncSession, owner: str) -> int:
    """How many jobs ``owner`` has, those that are off included."""
    live = (col(JobRow.owner) == owner, col(JobRow.archived_at).is_(None))
    count: int = (await session.execute(select(func.count()).where(*live))).scalar_one()
    return count


async def any_ever(session: AsyncSession) -> bool:
    """Whether this ledger has ever held a job, archived ones included."""
    return (await session.execute(select(JobRow.id).limit(1))).first() is not None


async def get(session: AsyncSession, job_id: str) -> StoredJob | None:
    """The job with its newest revision, archived or not; None when there is none."""
    row = await session.get(JobRow, job_id)
    if row is None:
        return None
    revision = await session.get(RevisionRow, (job_id, row.revision))
    assert revision is not None
    return _compose(row, revision)


async def find(
    session: AsyncSession, ref: str, *, archived: bool = False, owner: str | None = None
) -> StoredJob:
    """The live job with this name, id, or unique id prefix; raises `NotFound`, `Ambiguous`.

    Of several with that name the one that no agent owns. With ``archived``, where there is none,
    the archived one; of several the one that was archived last (requirement 15). With ``owner``
    only what that one owns.
    """
    whose = true() if owner is None else col(JobRow.owner) == owner
    row = await _look_up(session, ref, col(JobRow.archived_at).is_(None) & whose)
    if row is None and archived:
        row = await _look_up(session, ref, col(JobRow.archived_at).is_not(None) & whose)
    if row is None:
        raise NotFound("job", ref)
    found = await get(session, row.id)
    assert found is not None
    return found


async def _look_up(session: AsyncSession, ref: str, which: ColumnElement[bool]) -> JobRow | None:
    those = select(JobRow).where(which).order_by(col(JobRow.archived_at).desc()).limit(5)
    named = those.where(col(JobRow.name) == ref).order_by(None)
    named = named.order_by(_of_agents(), col(JobRow.archived_at).desc())
    fits: list[JobRow] = list((await session.execute(named)).scalars())
    if fits and (fits[0].archived_at is not None or not owners.is_agent(fits[0].owner)):
        return fits[0]
    if not fits and ref:
        prefixed = those.where(col(JobRow.id).startswith(ref, autoescape=True))
        fits = list((await session.execute(prefixed)).scalars())
    if len(fits) > 1:
        raise Ambiguous("job", ref, map(_told, fits))
    return fits[0] if fits else None


def _told(row: JobRow) -> str:
    whose = f", of {row.owner}" if owners.is_agent(row.owner) else ""
    return f"{row.id[:12]} ({row.name}{whose})"


def _of_agents() -> ColumnElement[bool]:
    return col(JobRow.owner).startswith(owners.BY_AGENT, autoescape=True)


async def every(session: AsyncSession, only: Collection[str] | None = None) -> list[StoredJob]:
    """All live jobs with their newest revisions, by name; ``only`` those with these ids."""
    joined = (
        select(JobRow, RevisionRow)
        .join(
            RevisionRow,
            (col(RevisionRow.job_id) == col(JobRow.id))
            & (col(RevisionRow.number) == col(JobRow.revision)),
        )
        .where(col(JobRow.archived_at).is_(None))
        .order_by(col(JobRow.name))
    )
    if only is not None and len(only) <= FEW:
        joined = joined.where(col(JobRow.id).in_(only))
    found = (await session.execute(joined)).all()
    return [_compose(row, rev) for row, rev in found if only is None or row.id in only]


async def in_force(session: AsyncSession, job_id: str, instant: datetime) -> StoredJob | None:
    """The job with the revision in force at ``instant``; None before its first one."""
    newest = (
        select(RevisionRow)
        .where(col(RevisionRow.job_id) == job_id, col(RevisionRow.effective_from) <= instant)
        .order_by(col(RevisionRow.effective_from).desc())
        .limit(1)
    )
    revision = (await session.execute(newest)).scalar_one_or_none()
    row = await session.get(JobRow, job_id)
    return None if revision is None or row is None else _compose(row, revision)


async def since(session: AsyncSession, job_id: str, instant: datetime) -> list[StoredJob]:
    """The job by each revision in force at ``instant`` or later, oldest first."""
    of_job = col(RevisionRow.job_id) == job_id
    first = select(func.max(RevisionRow.effective_from)).where(
        of_job, col(RevisionRow.effective_from) <= instant
    )
    start = (await session.execute(first)).scalar_one()
    later = select(RevisionRow).where(of_job).order_by(col(RevisionRow.effective_from))
    if start is not None:
        later = later.where(col(RevisionRow.effective_from) >= start)
    row = await session.get(JobRow, job_id)
    if row is None:
        return []
    return [_compose(row, revision) for revision in (await session.execute(later)).scalars()]


async def change(
    session: AsyncSession,
    stored: StoredJob,
    job: Job,
    now: datetime,
    *,
    edited: datetime | None = None,
    source: str = "ledger",
    disabled_reason: str = "",
    writer: str = "",
) -> StoredJob:
    """Make ``job`` what is in force from ``now`` on; nothing is written when nothing changed.

    ``stored`` is the job with its newest revision, ``now`` the ledger's time. An edit that was made
    before, when it was ``edited``, counts from then on, but not from before the watermark: what was
    audited stays as it was judged. A watermark ahead of ``now``, left there by a clock that was set
    back, puts nothing off. ``writer`` writes where the job leads from now on (`spec.reach`); where
    nobody is told, who did stays. Raises `InvalidInput` when a new name is taken.
    """
    row, latest = stored.row, stored.revision
    if job.name != row.name and job.name in await names(session, row.owner):
        raise InvalidInput("name", f'"{job.name}" is taken', "give another")
    reason = "" if job.enabled else disabled_reason or row.disabled_reason
    if job == stored.job and reason == row.disabled_reason:
        return stored
    row.name, row.description, row.tags = job.name, job.description, list(job.tags)
    row.meta = dict(job.metadata)
    row.disabled_reason = reason
    if job.enabled and not stored.job.enabled:
        row.consecutive_failures, row.snoozed_until = 0, None
    # Strictly rising as well: sync takes it for the job's version.
    since = edited or now
    row.updated_at = max(since, row.updated_at + timedelta(microseconds=1))
    row.sync_pending = True
    fresh = _revision(row.id, latest.number + 1, job, now, source)
    fresh.written_by = dict(latest.written_by)
    if writer:
        fresh.written_by = provenance.written(stored.job, job, latest.written_by, writer)
    meaning = ("enabled", "schedule", "action", "policy", "notify")
    if any(getattr(fresh, name) != getattr(latest, name) for name in meaning):
        # Strictly rising, also when two changes fall into one microsecond or the clock went back.
        rising = latest.effective_from + timedelta(microseconds=1)
        fresh.effective_from = max(since, rising, min(row.audited_until, now))
        row.revision = fresh.number
        session.add(fresh)
        latest = fresh
    session.add(row)
    await session.flush()
    return _compose(row, latest)


def with_new_time(stored: StoredJob, job: Job) -> Job:
    """``job``, switched on when ``stored`` is off because it was done, and it is not any more.

    Requirement 6: a one-time job is disabled after its time; a new schedule lets it fire again. So
    does a higher `max_runs` for one that has had all its runs.
    """
    reason = "" if stored.job.enabled else stored.row.disabled_reason
    fires_again = reason.startswith(FIRED) and job.schedule != stored.job.schedule
    has_more = reason.startswith(DONE) and not all_done(stored.row, job)
    if fires_again or has_more:
        return job.model_copy(update={"enabled": True})
    return job


def all_done(row: JobRow, job: Job) -> bool:
    """Whether the job has had as many runs as its policy lets it have."""
    return 0 < job.policy.max_runs <= row.run_count


async def forget(session: AsyncSession, job_id: str) -> None:
    """Undo `add`: for a job that never ran. What was told of it stays."""
    told = update(OutboxRow).where(col(OutboxRow.job_id) == job_id).values(job_id=None)
    await session.execute(told)
    await session.execute(delete(RevisionRow).where(col(RevisionRow.job_id) == job_id))
    await session.execute(delete(JobRow).where(col(JobRow.id) == job_id))
