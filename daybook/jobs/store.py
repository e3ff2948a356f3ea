"""Jobs and their revisions in the ledger.

Every change of a job's schedule, action, policy, notifications or enabled flag makes a new
revision. A revision is in force from its `effective_from` until the `effective_from` of the next
revision; these times are strictly increasing per job. The other fields belong to the job itself.
Functions that access the ledger take a session of `Ledger.write` or `Ledger.read`. All instants are
in UTC.

A job whose stored fields are not valid raises `UnreadableJob`, and `all_jobs` leaves it out: the
other jobs keep running. With the stand-in of `read_all`, such a job is listed and removed.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, delete, func, true, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook import owners
from daybook.errors import InvalidInput, UnknownName, UnreadableJob
from daybook.jobs import prompts, provenance, stored_columns
from daybook.jobs.model import Job
from daybook.ledger import references
from daybook.ledger.column_types import valid_json
from daybook.ledger.states import Status
from daybook.ledger.tables import (
    NEWEST_REVISION,
    Fact,
    JobRow,
    OutboxRow,
    RevisionRow,
    RunRow,
    WatchRow,
)
from daybook.names import Id, free_name
from daybook.schedules.schedule import After

FIRED_REASON = "fired"
"""Prefix of the reason why a one-time job was disabled after its due time."""
PASSED_REASON = "its due time had passed when it was added"

FAILURES_REASON = "paused after"
"""Prefix of the reason why a job was disabled after too many failures in a row."""

MAX_RUNS_REASON = "max runs"
"""Prefix of the reason why a job was disabled after its maximum number of runs."""

MUTED_FACT = "muted_answers:"
"""Beginning of the keys of `muted_fact`."""
_UNDECIDED = (Status.WAITING, Status.SKIPPED)
"""Statuses of a run without an attempt that a revision from before its due time may change."""


@dataclass(frozen=True)
class StoredJob:
    """A job's row and one of its revisions, and the `Job` that is composed of both.

    If the job cannot be read, ``problem`` is the reason, and ``job`` is a stand-in: a disabled job
    without due times. Only `read_all` and `jobs_after` return such a job.
    """

    row: JobRow
    revision: RevisionRow
    job: Job
    problem: UnreadableJob | None = None

    @property
    def id(self) -> str:
        return Id(self.row.id)


def _compose(row: JobRow, revision: RevisionRow) -> StoredJob:
    """Return the job of the two rows; raise `UnreadableJob`."""
    return StoredJob(row, revision, stored_columns.read_job(row, revision))


def _compose_or_stand_in(row: JobRow, revision: RevisionRow) -> StoredJob:
    """Return the job of the two rows, or its stand-in, whose rows still have the invalid values."""
    try:
        return _compose(row, revision)
    except UnreadableJob as error:
        return StoredJob(row, revision, stored_columns.stand_in(row), error)


def _job_columns(job: Job) -> dict[str, Any]:
    """Return the values that belong to the job itself, by column."""
    fields = job.model_dump(mode="json", exclude=stored_columns.VERSIONED_FIELDS)
    columns = {stored_columns.JOB_COLUMNS[name]: value for name, value in fields.items()}
    return columns | {"runs_after": runs_after(job)}


def runs_after(job: Job) -> str | None:
    """Return the name of the job that ``job`` runs after; None if it has another schedule."""
    return job.schedule.job if isinstance(job.schedule, After) else None


def _revision(
    job_id: str, number: int, job: Job, effective_from: datetime, source: str
) -> RevisionRow:
    return RevisionRow(
        job_id=job_id,
        number=number,
        effective_from=effective_from,
        source=source,
        **job.model_dump(mode="json", by_alias=True, include=stored_columns.VERSIONED_FIELDS),
    )


def named_outputs(job: Job) -> list[str]:
    """Return the names of the jobs whose answers the prompt of ``job`` uses."""
    return prompts.outputs(getattr(job.action, "prompt", ""))


async def used_outputs(session: AsyncSession) -> dict[str, list[str]]:
    """Return, by the id of a live job, the names of the jobs whose answers its prompt uses.

    Jobs whose prompts use no answers are left out.
    """
    prompt = valid_json(col(RevisionRow.action))["prompt"].as_string()
    query = (
        select(JobRow.id, prompt)
        .join(RevisionRow, NEWEST_REVISION)
        .where(col(JobRow.archived_at).is_(None), prompt.contains(prompts.OUTPUT))
    )
    found = (await session.execute(query)).tuples()
    return {job_id: names for job_id, text in found if (names := prompts.outputs(text))}


def _with_renamed_job(job: Job, old: str, new: str) -> Job:
    """Return ``job`` with references to the job ``old``, perhaps itself, changed to ``new``."""
    update: dict[str, Any] = {}
    if runs_after(job) == old:
        update["schedule"] = job.schedule.model_copy(update={"job": new})
    if old in named_outputs(job):
        prompt = prompts.rename_output(getattr(job.action, "prompt", ""), old, new)
        update["action"] = job.action.model_copy(update={"prompt": prompt})
    return job.model_copy(update=update)


async def taken_names(session: AsyncSession, owner: str) -> set[str]:
    """Return the names of the live jobs in ``owner``'s namespace.

    Each agent has its own, so that a refusal reveals nothing about others' jobs. All other owners
    share one.
    """
    query = select(JobRow.name).where(_in_namespace(owner))
    return set((await session.execute(query)).scalars())


def _in_namespace(owner: str) -> ColumnElement[bool]:
    """Return the condition for the live jobs in ``owner``'s namespace."""
    of_agent = col(JobRow.owner).startswith(owners.AGENT_PREFIX, autoescape=True)
    condition = col(JobRow.owner) == owner if owners.is_agent(owner) else ~of_agent
    return condition & col(JobRow.archived_at).is_(None)


async def named(session: AsyncSession, owner: str, name: str) -> JobRow | None:
    """Return the live job with exactly this name in ``owner``'s namespace, or None."""
    query = select(JobRow).where(_in_namespace(owner), col(JobRow.name) == name)
    found: JobRow | None = (await session.execute(query)).scalar_one_or_none()
    return found


async def jobs_after(session: AsyncSession, owner: str, name: str) -> list[StoredJob]:
    """Return the live jobs in ``owner``'s namespace that run after this job.

    A job that cannot be read has a stand-in.
    """
    query = select(JobRow.id).where(_in_namespace(owner), col(JobRow.runs_after) == name)
    ids = (await session.execute(query)).scalars().all()
    return await read_all(session, ids) if ids else []


async def check_other_jobs(
    session: AsyncSession, owner: str, job: Job, before: Job | None = None
) -> None:
    """Check the names of other jobs that ``job`` refers to and ``before`` does not.

    Raise `UnknownName` for a job that is not in ``owner``'s namespace, and `InvalidInput` if jobs
    would run after each other in a cycle. The check finds a cycle only after ``job`` is written.
    """
    after = runs_after(job)
    given = {("after", after)} if after else set()
    given |= {("prompt", name) for name in named_outputs(job)}
    if before is not None:
        given -= {("after", runs_after(before))}
        given -= {("prompt", name) for name in named_outputs(before)}
    if given:
        names = await taken_names(session, owner)
        for field, name in sorted(given):
            if name not in names:
                raise UnknownName(field, name, sorted(names - {job.name}))
    if before is not None and (before.name, runs_after(before)) == (job.name, after):
        return
    chain = [job.name]
    while after is not None and after not in chain:
        chain.append(after)
        upstream = await named(session, owner, after)
        after = upstream.runs_after if upstream else None
    if after is not None:
        problem = f"the jobs would run in a cycle: {' → '.join([*chain, after])}"
        raise InvalidInput("after", problem, "name a job that does not run after this one")


async def live_names(session: AsyncSession, owner: str | None = None) -> list[str]:
    """Return the names of all live jobs or, with ``owner``, of the live jobs of that owner."""
    condition = true() if owner is None else col(JobRow.owner) == owner
    query = select(JobRow.name).where(col(JobRow.archived_at).is_(None), condition)
    return list((await session.execute(query)).scalars())


async def all_names(session: AsyncSession, owner: str | None = None) -> dict[str, str]:
    """Return the names of all jobs, or those of ``owner``, by id, including archived jobs."""
    condition = true() if owner is None else col(JobRow.owner) == owner
    rows = await session.execute(select(JobRow.id, JobRow.name).where(condition))
    return dict(rows.tuples().all())


async def taken_slugs(session: AsyncSession, kind: str) -> set[str]:
    """Return the deployment names of the live jobs of this kind."""
    live = (col(JobRow.kind) == kind, col(JobRow.archived_at).is_(None))
    return set((await session.execute(select(JobRow.slug).where(*live))).scalars())


async def free_slug(session: AsyncSession, job: Job, owner: str) -> str:
    """Return a free name for a new job's deployment.

    That of an agent's job begins with the agent's id, or a number at its end would reveal that
    another owner's job has this name.
    """
    from slugify import slugify

    text = f"{owners.agent_id(owner)} {job.name}"
    slug = slugify(text, max_length=60, word_boundary=True) or "job"
    return free_name(slug, await taken_slugs(session, job.kind))


async def add(
    session: AsyncSession,
    job: Job,
    slug: str,
    now: datetime,
    owner: str = "user",
    *,
    user_id: str = "",
    created_by: str = "cli",
    request_key: str | None = None,
    names_are_checked: bool = False,
) -> StoredJob:
    """Store a new job and return it.

    Raise `InvalidInput` if the job's name is taken, if it refers to a job that does not exist, or
    if jobs would run after each other in a cycle. With ``names_are_checked``, omit these checks: a
    caller that adds several jobs has checked all their names.
    """
    if not names_are_checked and job.name in await taken_names(session, owner):
        raise InvalidInput(
            "name", f'"{job.name}" is taken', "choose another name, or edit that job"
        )
    row = JobRow(
        **_job_columns(job),
        slug=slug,
        owner=owner,
        user_id=user_id,
        created_by=created_by,
        request_key=request_key,
        created_at=now,
        updated_at=now,
        audited_until=now,
    )
    session.add(row)
    await session.flush()
    author = owner if owners.is_agent(owner) else created_by
    revision = _revision(row.id, 1, job, now, author)
    session.add(revision)
    if not names_are_checked:
        await check_other_jobs(session, owner, job)
    return _compose(row, revision)


async def find_requested(
    session: AsyncSession, owner: str, key_prefix: str, since: datetime | None
) -> StoredJob | None:
    """Return the owner's live job whose `request_key` begins with ``key_prefix``, or None.

    With ``since``, return only a job that was added at or after this time.
    """
    conditions = [
        col(JobRow.owner) == owner,
        col(JobRow.request_key).startswith(key_prefix, autoescape=True),
        col(JobRow.archived_at).is_(None),
    ]
    if since is not None:
        conditions.append(col(JobRow.created_at) >= since)
    found = (await session.execute(select(JobRow.id).where(*conditions).limit(1))).scalar()
    return None if found is None else await get(session, found)


async def count_owned(session: AsyncSession, owner: str) -> int:
    """Return how many live jobs ``owner`` has, including disabled jobs."""
    live = (col(JobRow.owner) == owner, col(JobRow.archived_at).is_(None))
    count: int = (await session.execute(select(func.count()).where(*live))).scalar_one()
    return count


async def has_jobs(session: AsyncSession) -> bool:
    """Return whether this ledger contains a job, including archived jobs."""
    return (await session.execute(select(JobRow.id).limit(1))).first() is not None


async def get(session: AsyncSession, job_id: str) -> StoredJob | None:
    """Return the job, archived or not, with its newest revision; None if there is no such job."""
    row = await session.get(JobRow, job_id)
    if row is None:
        return None
    revision = await session.get(RevisionRow, (job_id, row.revision))
    assert revision is not None
    return _compose(row, revision)


def in_scope(*, archived: bool = False, owner: str | None = None) -> ColumnElement[bool]:
    """Return the condition for the live jobs, or all if ``archived``, of ``owner`` if given."""
    condition = true() if owner is None else col(JobRow.owner) == owner
    return condition if archived else condition & col(JobRow.archived_at).is_(None)


async def find(
    session: AsyncSession, ref: str, *, archived: bool = False, owner: str | None = None
) -> StoredJob:
    """Return the live job with this id, unique short id, or name (see `ledger.references`).

    The scope is that of `in_scope`. Raise `NotFound` and `Ambiguous`.
    """
    scope = {references.JOB: in_scope(archived=archived, owner=owner)}
    stored = await get(session, (await references.resolve(session, ref, scope)).id)
    assert stored is not None
    return stored


async def get_readable(session: AsyncSession, job_id: str | None) -> StoredJob | None:
    """Return the job as `get` does; None without a ``job_id``, or if the job cannot be read.

    For code that has to record something even then.
    """
    try:
        return await get(session, job_id) if job_id is not None else None
    except UnreadableJob:
        return None


async def all_jobs(session: AsyncSession, only: Collection[str] | None = None) -> list[StoredJob]:
    """Return the live jobs, or those with the ids ``only``, in their newest revisions, by name.

    Leave out jobs that cannot be read.
    """
    return [each for each in await read_all(session, only) if each.problem is None]


async def read_all(
    session: AsyncSession,
    only: Collection[str] | None = None,
    *,
    owner: str | None = None,
    most: int | None = None,
) -> list[StoredJob]:
    """Return the jobs as `all_jobs` does, with a stand-in for each job that cannot be read.

    With ``owner``, return only that owner's jobs; with ``most``, only the first so many.
    """
    joined = (
        select(JobRow, RevisionRow)
        .join(RevisionRow, NEWEST_REVISION)
        .where(col(JobRow.archived_at).is_(None))
        .order_by(func.lower(col(JobRow.name)), col(JobRow.name))
        .limit(most)
    )
    if owner is not None:
        joined = joined.where(col(JobRow.owner) == owner)
    if only is not None and len(only) <= stored_columns.MAX_IDS_PER_QUERY:
        joined = joined.where(col(JobRow.id).in_(only))
    pairs = (await session.execute(joined)).all()
    return [_compose_or_stand_in(row, rev) for row, rev in pairs if only is None or row.id in only]


async def edited_since_applied(session: AsyncSession) -> list[StoredJob]:
    """Return the live jobs of jobs files that were edited after their file was applied.

    An edit may have been reverted (`daybook.files.plan.drift` compares the fields).
    """
    edited = (
        col(JobRow.owner).startswith(owners.FILE_PREFIX, autoescape=True),
        col(JobRow.archived_at).is_(None),
        col(JobRow.applied_at) != col(JobRow.updated_at),
    )
    found = (await session.execute(select(JobRow.id).where(*edited))).scalars().all()
    return await all_jobs(session, found) if found else []


async def in_force(session: AsyncSession, job_id: str, instant: datetime) -> StoredJob | None:
    """Return the job with the revision in force at ``instant``; None if none was in force."""
    newest = (
        select(JobRow, RevisionRow)
        .join(RevisionRow, col(RevisionRow.job_id) == col(JobRow.id))
        .where(col(JobRow.id) == job_id, col(RevisionRow.effective_from) <= instant)
        .order_by(col(RevisionRow.effective_from).desc())
        .limit(1)
    )
    found = (await session.execute(newest)).one_or_none()
    return None if found is None else _compose(*found)


async def revisions_since(session: AsyncSession, job_id: str, instant: datetime) -> list[StoredJob]:
    """Return the job with each revision in force at ``instant`` or later, oldest first.

    The list is empty if there is no such job.
    """
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
    source: str = "daybook",
    disabled_reason: str = "",
    writer: str = "",
    names_are_checked: bool = False,
) -> StoredJob:
    """Put ``job`` in force from ``now`` on and return it; write nothing if nothing changed.

    ``stored`` is the job with its newest revision; ``now`` is the ledger's time. An edit that was
    made at ``edited`` takes effect at that time, but not before the audit watermark, and only after
    the last due time whose run has started or was missed: nothing decides about a due time twice. A
    watermark ahead of ``now`` (the clock was set back) delays nothing. Enabling a job clears its
    failure count and its snooze.

    ``writer`` becomes the author of the revision and of the changed targets
    (`daybook.jobs.provenance`). If ``writer`` is empty, ``source`` becomes the author of the
    revision, and the authors of the targets stay. The author is also recorded as the author who
    enabled or disabled the job. If the job's name changes, jobs that refer to it get the new name.
    Raise `UnreadableJob` if such a job cannot be read. Raise the errors of `add`, and check a new
    name even with ``names_are_checked``. A stand-in replaces the job that cannot be read, with all
    its stored values.
    """
    row, latest = stored.row, stored.revision
    if stored.problem is not None:
        stored_columns.clear(row, latest)
    if job.name != row.name and job.name in await taken_names(session, row.owner):
        raise InvalidInput("name", f'"{job.name}" is taken', "choose another name")
    if job.name != stored.job.name:
        job = _with_renamed_job(job, stored.job.name, job.name)
    reason = "" if job.enabled else disabled_reason or row.disabled_reason
    # The operator, but not an agent, becomes the author who disabled an already disabled job.
    is_operator = bool(writer) and not owners.is_agent(writer)
    is_confirmed = bool(reason and disabled_reason) and is_operator
    is_confirmed &= latest.written_by.get(provenance.ENABLED) != writer
    if job == stored.job and reason == row.disabled_reason and not is_confirmed:
        return stored
    is_switched = job.enabled != stored.job.enabled or is_confirmed
    is_switched |= reason != row.disabled_reason and not owners.is_agent(writer)
    for name, value in _job_columns(job).items():
        setattr(row, name, value)
    row.disabled_reason = reason
    if job.enabled and not stored.job.enabled:
        row.consecutive_failures, row.snoozed_until = 0, None
    # `updated_at` is strictly increasing too: reconcile uses it as the job's version.
    since = edited or now
    row.updated_at = max(since, row.updated_at + timedelta(microseconds=1))
    row.sync_pending = True
    revision = _revision(row.id, latest.number + 1, job, now, writer or source)
    revision.written_by = dict(latest.written_by)
    if writer:
        revision.written_by = provenance.update_authors(stored.job, job, latest.written_by, writer)
    if any(
        getattr(revision, name) != getattr(latest, name) for name in stored_columns.VERSIONED_FIELDS
    ):
        # Strictly increasing, even if two changes share a microsecond or the clock was set back.
        earliest = latest.effective_from + timedelta(microseconds=1)
        decided = row.audited_until
        if edited:
            decided = max(decided, await _decided_until(session, row.id, edited))
        revision.effective_from = max(since, earliest, min(decided, now))
        row.revision = revision.number
        session.add(revision)
        latest = revision
    if is_switched:
        latest.written_by = {**latest.written_by, provenance.ENABLED: writer or source}
    session.add(row)
    await session.flush()
    if job.name != stored.job.name:
        await _rename_references(session, row, stored.job.name, now, writer or source)
    if not names_are_checked:
        await check_other_jobs(session, row.owner, job, stored.job)
    return _compose(row, latest)


async def _rename_references(
    session: AsyncSession, row: JobRow, old: str, now: datetime, source: str
) -> None:
    """Put the new name of ``row`` into the jobs that refer to its name ``old``.

    Raise `UnreadableJob` if one of them cannot be read.
    """
    query = select(JobRow.id).where(_in_namespace(row.owner), col(JobRow.id) != row.id)
    outputs = await used_outputs(session)
    for each in await read_all(session, (await session.execute(query)).scalars().all()):
        if each.problem is None:
            renamed = _with_renamed_job(each.job, old, row.name)
            await change(session, each, renamed, now, source=source)
        elif old in (each.row.runs_after, *outputs.get(each.id, ())):
            raise each.problem


async def _decided_until(session: AsyncSession, job_id: str, edited: datetime) -> datetime:
    """Return the instant after the last due time that was decided since ``edited``.

    These are the due times of runs that have started or were missed. If there are none, return
    ``edited``.
    """
    decided = (col(RunRow.attempts) > 0) | col(RunRow.status).not_in(_UNDECIDED)
    last_due = func.coalesce(col(RunRow.due_to), col(RunRow.due))
    query = select(func.max(last_due)).where(
        col(RunRow.job_id) == job_id, last_due >= edited, decided
    )
    last = (await session.execute(query)).scalar_one()
    return edited if last is None else last + timedelta(microseconds=1)


def enable_again(stored: StoredJob, job: Job) -> Job:
    """Return ``job``; enable it if it was disabled as finished and may now run again.

    A one-time job is disabled after its due time, and so is one that is added later than that; a
    new schedule lets it run again. A job that has
    had all its runs may run again if its `max_runs` is raised.
    """
    reason = "" if stored.job.enabled else stored.row.disabled_reason
    is_over = reason.startswith((FIRED_REASON, PASSED_REASON))
    fires_again = is_over and job.schedule != stored.job.schedule
    has_more = reason.startswith(MAX_RUNS_REASON) and not has_had_all_runs(stored.row, job)
    if fires_again or has_more:
        return job.model_copy(update={"enabled": True})
    return job


def has_had_all_runs(row: JobRow, job: Job) -> bool:
    """Return whether the job has had as many runs as its policy allows."""
    return 0 < job.policy.max_runs <= row.run_count


def muted_fact(job_id: str) -> str:
    """Return the key of the fact that a person has muted the answers of a job (`api.answers`)."""
    return f"{MUTED_FACT}{job_id}"


async def delete_job(session: AsyncSession, job_id: str) -> None:
    """Delete a job that has no runs, with its revisions. Keep its messages in the outbox.

    Also delete the content that the job's watch saw, and the mark that its answers are muted.
    """
    detach_messages = update(OutboxRow).where(col(OutboxRow.job_id) == job_id).values(job_id=None)
    await session.execute(detach_messages)
    await session.execute(delete(WatchRow).where(col(WatchRow.job_id) == job_id))
    await session.execute(delete(Fact).where(col(Fact.key) == muted_fact(job_id)))
    await session.execute(delete(RevisionRow).where(col(RevisionRow.job_id) == job_id))
    await session.execute(delete(JobRow).where(col(JobRow.id) == job_id))
