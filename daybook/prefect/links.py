"""The link of each job to its Prefect deployment, and the last reconciled state of both sides.

`JobRow.synced` is the last reconciled state. It has one of three values:

- a projection (`daybook.prefect.projection`); its `foreign` describes the parts that stay Prefect's
  own. This value is written before the deployment is created; until the deployment's id is
  recorded, it is the intended state.
- `NO_DEPLOYMENT`, if the job was disabled because it lost its deployment.
- None, if nothing was reconciled yet.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook.jobs import store
from daybook.jobs.model import Job
from daybook.json_text import JsonObject
from daybook.ledger.states import Outcome, Status
from daybook.ledger.tables import Fact, JobRow, RunRow
from daybook.owners import PREFECT
from daybook.runs import outcomes

NO_DEPLOYMENT: JsonObject = {}
DELETED_REASON = "its deployment was deleted in Prefect"
"""Reason recorded for a job that is disabled because its deployment was deleted."""
TAKEN_REASON = "its deployment belongs to another Daybook now"
SWITCHED_OFF_REASON = "turned off in Prefect"
REASONS_FROM_PREFECT = frozenset({DELETED_REASON, TAKEN_REASON, SWITCHED_OFF_REASON})
"""Reasons for which a job is disabled because of its deployment, and not by Daybook."""
REMOVAL_GRACE = timedelta(minutes=1)
"""Time after a job's removal in which a pass that began before may still see its deployment."""

_POOL_KEY = "pool"


@dataclass(frozen=True)
class JobVersion:
    """The columns of a live job that show whether the job has changed since the last pass."""

    id: str
    slug: str
    deployment_id: str | None
    updated_at: datetime
    pending: bool


async def job_versions(session: AsyncSession) -> list[JobVersion]:
    """Return the versions of all live jobs, sorted by name."""
    columns = (JobRow.id, JobRow.slug, JobRow.deployment_id, JobRow.updated_at, JobRow.sync_pending)
    query = select(*map(col, columns)).where(col(JobRow.archived_at).is_(None))
    return [JobVersion(*each) for each in await session.execute(query.order_by(col(JobRow.name)))]


async def recorded_pool_id(session: AsyncSession) -> str | None:
    """Return the id of the work pool of the recorded Prefect; None if no Prefect is recorded."""
    fact = await session.get(Fact, _POOL_KEY)
    return None if fact is None else fact.value


async def record_instance(session: AsyncSession, pool_id: str, there: Collection[str]) -> list[str]:
    """Record another Prefect or pool, and mark the jobs that it lacks as pending.

    It lacks a live job if the job's recorded deployment is not among the ids ``there``. One
    transaction writes both, so that a deployment that this Prefect never had does not count as
    deleted. Return the names of the marked jobs.
    """
    deployed = select(JobRow).where(
        col(JobRow.archived_at).is_(None), col(JobRow.deployment_id).is_not(None)
    )
    rows = [
        row for row in (await session.execute(deployed)).scalars() if row.deployment_id not in there
    ]
    for row in rows:
        row.deployment_id, row.synced, row.sync_pending = None, None, True
        session.add(row)
    fact = await session.get(Fact, _POOL_KEY) or Fact(key=_POOL_KEY, value=pool_id)
    fact.value = pool_id
    session.add(fact)
    return [row.name for row in rows]


async def record_lost_deployment(
    session: AsyncSession, job_id: str, deployment_id: str, now: datetime, why: str
) -> bool:
    """Disable a job that has lost its deployment in Prefect, and record that the job has none.

    Skip the job's waiting runs, because Prefect has no deployment left to run them. If the job has
    another deployment now, was removed or does not exist, return False and write nothing.
    """
    stored = await store.get(session, job_id)
    if stored is None or stored.row.archived_at is not None:
        return False
    if stored.row.deployment_id != deployment_id:
        return False
    if stored.job.enabled:
        disabled = stored.job.model_copy(update={"enabled": False})
        await store.change(session, stored, disabled, now, source="prefect", disabled_reason=why)
    row = stored.row
    row.deployment_id, row.synced, row.sync_pending = None, dict(NO_DEPLOYMENT), False
    session.add(row)
    waiting_runs = select(RunRow).where(
        col(RunRow.job_id) == job_id, col(RunRow.status) == Status.WAITING
    )
    for run in (await session.execute(waiting_runs)).scalars().all():
        await outcomes.record(
            session, run, Outcome(Status.SKIPPED, f"the job is disabled: {why}"), now
        )
    return True


async def jobs_without_deployment(session: AsyncSession) -> set[str]:
    """Return the ids of the live jobs that are recorded as having no Prefect deployment."""
    query = select(JobRow).where(
        col(JobRow.archived_at).is_(None), col(JobRow.deployment_id).is_(None)
    )
    return {
        row.id for row in (await session.execute(query)).scalars() if is_without_deployment(row)
    }


async def skip_without_deployment(session: AsyncSession, run_id: str, now: datetime) -> bool:
    """Skip a waiting run whose job is disabled and recorded as having no deployment.

    Either a process still held such a run when the deployment was lost (`record_lost_deployment`),
    or the run was requested afterwards and no deployment was created for it. If the run does not
    wait, or if its job is enabled or may have a deployment, return False and write nothing.
    """
    run = await session.get(RunRow, run_id)
    if run is None or run.state is not Status.WAITING or run.job_id is None:
        return False
    stored = await store.get_readable(session, run.job_id)
    if stored is None or stored.job.enabled or not is_without_deployment(stored.row):
        return False
    reason = stored.row.disabled_reason or DELETED_REASON
    await outcomes.record(
        session, run, Outcome(Status.SKIPPED, f"the job is disabled: {reason}"), now
    )
    return True


def is_without_deployment(row: JobRow) -> bool:
    """Return whether the job is recorded as having no Prefect deployment."""
    return row.deployment_id is None and row.synced == NO_DEPLOYMENT


async def add_adopted_job(
    session: AsyncSession,
    job: Job,
    slug: str,
    now: datetime,
    *,
    deployment_id: str,
    projection: JsonObject,
    disabled_reason: str = "",
) -> store.StoredJob | None:
    """Store a deployment of Prefect as a new job, with ``projection`` as its last reconciled state.

    If the deployment already belongs to a job, even to a job that is being removed, return None and
    write nothing.
    """
    existing = select(JobRow.id).where(
        (col(JobRow.deployment_id) == deployment_id)
        | (
            (col(JobRow.kind) == job.kind)
            & (col(JobRow.slug) == slug)
            & (
                col(JobRow.archived_at).is_(None)
                | (col(JobRow.archived_at) > now - REMOVAL_GRACE)
                | _may_have_deployment()
            )
        )
    )
    if (await session.execute(existing.limit(1))).first() is not None:
        return None
    stored = await store.add(session, job, slug, now, PREFECT, created_by=PREFECT)
    stored.row.deployment_id, stored.row.synced = deployment_id, projection
    stored.row.disabled_reason = disabled_reason
    session.add(stored.row)
    return stored


def record_conflict(row: JobRow, losing: JsonObject, now: datetime, *, invalid: str = "") -> None:
    """Record Prefect's values of these fields, which are about to be overwritten.

    ``invalid`` is the reason why no job can have these values; empty if a job can. Earlier recorded
    values stay, even for the same field, because their conflict is still open.
    """
    earlier = row.conflict or {}
    known, reasons = earlier.get("fields", {}), earlier.get("invalid", {})
    if losing.keys() - known.keys():
        if invalid:
            reasons = {**dict.fromkeys(losing, invalid), **reasons}
        fields = {**losing, **known}
        row.conflict = {"at": now.isoformat(), "fields": fields, "invalid": reasons}


def clear_invalid_value(row: JobRow, name: str) -> None:
    """Clear the record of an invalid value of this field, because a valid one was imported."""
    conflict = row.conflict or {}
    if name not in conflict.get("invalid", {}):
        return
    others = {
        key: {each: value for each, value in conflict[key].items() if each != name}
        for key in ("fields", "invalid")
    }
    row.conflict = {**conflict, **others} if others["fields"] else None


async def clear_conflict(session: AsyncSession, job_id: str) -> None:
    """Clear the job's conflict, which was resolved in favour of the ledger's values."""
    row = await session.get(JobRow, job_id)
    if row is not None:
        row.conflict = None
        session.add(row)


async def jobs_in_conflict(session: AsyncSession) -> list[str]:
    """Return the ids of the live jobs with an open conflict, sorted by the jobs' names."""
    query = select(JobRow.id).where(
        col(JobRow.archived_at).is_(None), col(JobRow.conflict).is_not(None)
    )
    return list((await session.execute(query.order_by(col(JobRow.name)))).scalars())


async def job_of_deployment(
    session: AsyncSession, deployment_id: str, due: datetime | None = None
) -> str | None:
    """Return the id of the job with this deployment, or None.

    A live job takes precedence over a removed job whose deployment is still to be deleted, because
    the claim refuses runs of the removed job. Also return None if ``due`` is earlier than the
    adoption of the deployment, because runs that Prefect queued until then belong to no job.
    """
    query = (
        select(JobRow.id, JobRow.owner, JobRow.created_at)
        .where(col(JobRow.deployment_id) == deployment_id)
        .order_by(col(JobRow.archived_at).is_not(None), col(JobRow.created_at).desc())
    )
    first = (await session.execute(query)).first()
    if first is None:
        return None
    job_id, owner, since = first
    return None if owner == PREFECT and due is not None and due < since else str(job_id)


async def pending(session: AsyncSession, job_id: str) -> tuple[bool, bool]:
    """Return whether the job has changes that are not in Prefect yet, and whether it was removed.

    Each run asks this at its end, so the job itself is not read.
    """
    query = select(JobRow.sync_pending, JobRow.archived_at).where(col(JobRow.id) == job_id)
    row = (await session.execute(query)).first()
    return (False, False) if row is None else (row[0], row[1] is not None)


async def record_agreement(
    session: AsyncSession,
    job_id: str,
    deployment_id: str | None,
    projection: JsonObject | None,
    as_of: datetime,
    *,
    written: Collection[str] = (),
) -> None:
    """Record that the job's deployment in Prefect has this ``projection`` (None: no deployment).

    If there is no deployment, ``deployment_id`` is None, too. ``as_of`` is the job's `updated_at`
    when the projection was computed. If the job was changed after that, perhaps by an import of
    newer edits, record only the fields that were ``written`` to Prefect, and leave the job pending.
    """
    row = await session.get(JobRow, job_id)
    if row is not None:
        row.sync_pending = row.updated_at != as_of
        if row.sync_pending and row.synced and projection:
            projection = row.synced | {name: projection[name] for name in written}
        row.deployment_id, row.synced = deployment_id, projection
        session.add(row)


async def record_intention(session: AsyncSession, job_id: str, projection: JsonObject) -> None:
    """Record the projection of the deployment that the caller is about to create.

    Do nothing if a deployment, or none, is recorded for the job.
    """
    row = await session.get(JobRow, job_id)
    if row is not None and row.deployment_id is None and row.synced != NO_DEPLOYMENT:
        row.synced = projection
        session.add(row)


async def record_deployment_id(
    session: AsyncSession, kind: str, slug: str, deployment_id: str
) -> None:
    """Record the deployment of the job with this kind and slug, if the job has no deployment yet.

    If no live job has this kind and slug, record the deployment for the job that was removed before
    its deployment was known.
    """
    query = (
        select(JobRow)
        .where(
            col(JobRow.kind) == kind,
            col(JobRow.slug) == slug,
            col(JobRow.archived_at).is_(None) | _may_have_deployment(),
        )
        .order_by(col(JobRow.archived_at).is_not(None), col(JobRow.archived_at).desc())
    )
    row = (await session.execute(query)).scalars().first()
    if row is not None and row.deployment_id is None:
        row.deployment_id = deployment_id
        session.add(row)


async def change_slug(session: AsyncSession, job_id: str, slug: str) -> None:
    """Give a job without a deployment another slug, because its slug is taken in Prefect."""
    row = await session.get(JobRow, job_id)
    if row is not None:
        row.slug = slug
        session.add(row)


async def jobs_to_undeploy(session: AsyncSession) -> list[JobRow]:
    """Return the archived jobs whose deployment has to be deleted and is not used by a live job.

    The result includes jobs without a recorded deployment whose deployment may exist in Prefect.
    """
    of_live_jobs = select(JobRow.deployment_id).where(
        col(JobRow.archived_at).is_(None), col(JobRow.deployment_id).is_not(None)
    )
    query = select(JobRow).where(
        col(JobRow.archived_at).is_not(None),
        (col(JobRow.deployment_id).is_not(None) & col(JobRow.deployment_id).not_in(of_live_jobs))
        | _may_have_deployment(),
    )
    return list((await session.execute(query)).scalars())


def _may_have_deployment() -> ColumnElement[bool]:
    """Return the condition for an archived job with a deployment that a crash left unrecorded."""
    return (
        col(JobRow.archived_at).is_not(None)
        & col(JobRow.deployment_id).is_(None)
        & col(JobRow.sync_pending)
    )
