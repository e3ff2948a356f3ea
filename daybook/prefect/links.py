"""Which Prefect deployment a job is, in which Prefect, and what both sides last agreed on.

`JobRow.synced` is the last agreement: a projection (`daybook.prefect.projection`), with `foreign` in
it, in words, what Prefect keeps for itself; `ABSENT` when both sides have no deployment of the job,
which is off then; None when nothing was agreed yet. It is written before the deployment is made:
without a deployment's id it is what was to be made, if anything was.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook.jobs import store
from daybook.jobs.model import Job
from daybook.ledger.states import Outcome, Status
from daybook.ledger.tables import Fact, JobRow, RunRow
from daybook.owners import PREFECT
from daybook.runs import outcomes

ABSENT: dict[str, Any] = {}
DELETED = "its deployment was deleted in Prefect"
"""Why a job is off that was not removed here."""
TAKEN = "its deployment belongs to another Daybook now"
FRESH = timedelta(minutes=1)
"""So long after a removal its deployment may still be seen in Prefect by who began to look."""

_PLACE = "pool"


@dataclass(frozen=True)
class Version:
    """As much of a live job as tells whether it changed since the last look."""

    id: str
    slug: str
    deployment_id: str | None
    updated_at: datetime
    pending: bool


async def versions(session: AsyncSession) -> list[Version]:
    """Of all live jobs, by name."""
    of = (JobRow.id, JobRow.slug, JobRow.deployment_id, JobRow.updated_at, JobRow.sync_pending)
    live = select(*map(col, of)).where(col(JobRow.archived_at).is_(None))
    return [Version(*each) for each in await session.execute(live.order_by(col(JobRow.name)))]


async def place(session: AsyncSession) -> str | None:
    """The id of the work pool of the Prefect in which the deployments were made."""
    fact = await session.get(Fact, _PLACE)
    return None if fact is None else fact.value


async def moved(session: AsyncSession, pool_id: str, there: Collection[str]) -> list[str]:
    """This is another Prefect, or its pool is another: what is not ``there`` has to be made again.

    In one transaction with the pool's id, so that nothing is ever taken for deleted that this
    Prefect never had. Returns the names of the jobs.
    """
    lost = select(JobRow).where(
        col(JobRow.archived_at).is_(None), col(JobRow.deployment_id).is_not(None)
    )
    rows = [
        row for row in (await session.execute(lost)).scalars() if row.deployment_id not in there
    ]
    for row in rows:
        row.deployment_id, row.synced, row.sync_pending = None, None, True
        session.add(row)
    fact = await session.get(Fact, _PLACE) or Fact(key=_PLACE, value=pool_id)
    fact.value = pool_id
    session.add(fact)
    return [row.name for row in rows]


async def lost(
    session: AsyncSession, job_id: str, deployment_id: str, now: datetime, why: str
) -> bool:
    """The job's deployment is gone from Prefect: the job is off, and neither side has one.

    False, and nothing is written, when the job has another by now. What waits for it is skipped:
    there is nothing left by which Prefect could run it.
    """
    stored = await store.get(session, job_id)
    if stored is None or stored.row.archived_at is not None:
        return False
    if stored.row.deployment_id != deployment_id:
        return False
    if stored.job.enabled:
        off = stored.job.model_copy(update={"enabled": False})
        await store.change(session, stored, off, now, source="prefect", disabled_reason=why)
    row = stored.row
    row.deployment_id, row.synced, row.sync_pending = None, dict(ABSENT), False
    session.add(row)
    waiting = select(RunRow).where(
        col(RunRow.job_id) == job_id, col(RunRow.status) == Status.WAITING
    )
    for run in (await session.execute(waiting)).scalars().all():
        await outcomes.write(session, run, Outcome(Status.SKIPPED, f"the job is off: {why}"), now)
    return True


async def absent(session: AsyncSession) -> set[str]:
    """The ids of the live jobs of which both sides agree that Prefect has no deployment."""
    without = select(JobRow).where(
        col(JobRow.archived_at).is_(None), col(JobRow.deployment_id).is_(None)
    )
    return {row.id for row in (await session.execute(without)).scalars() if is_absent(row)}


async def skip_of_absent(session: AsyncSession, run_id: str, now: datetime) -> bool:
    """End a waiting run whose job is off and has no deployment by agreement, as `lost` does.

    It was held when the deployment was lost, and waits only since. False, and nothing is written,
    when any of it is not so (any more).
    """
    run = await session.get(RunRow, run_id)
    if run is None or run.state is not Status.WAITING or run.job_id is None:
        return False
    stored = await store.get(session, run.job_id)
    if stored is None or stored.job.enabled or not is_absent(stored.row):
        return False
    why = stored.row.disabled_reason or DELETED
    await outcomes.write(session, run, Outcome(Status.SKIPPED, f"the job is off: {why}"), now)
    return True


def is_absent(row: JobRow) -> bool:
    """Whether both sides agree that Prefect has no deployment of this job."""
    return row.deployment_id is None and row.synced == ABSENT


async def adopted(
    session: AsyncSession,
    job: Job,
    slug: str,
    now: datetime,
    *,
    deployment_id: str,
    projection: dict[str, Any],
    disabled_reason: str = "",
) -> store.StoredJob | None:
    """Store a deployment of Prefect as a new job; what it held is the agreement.

    None, and nothing is written, when it is a job already, or a removal that is going on.
    """
    known = select(JobRow.id).where(
        (col(JobRow.deployment_id) == deployment_id)
        | (
            (col(JobRow.kind) == job.kind)
            & (col(JobRow.slug) == slug)
            & (
                col(JobRow.archived_at).is_(None)
                | (col(JobRow.archived_at) > now - FRESH)
                | _may_have_one()
            )
        )
    )
    if (await session.execute(known.limit(1))).first() is not None:
        return None
    stored = await store.add(session, job, slug, now, PREFECT, created_by=PREFECT)
    stored.row.deployment_id, stored.row.synced = deployment_id, projection
    stored.row.disabled_reason = disabled_reason
    session.add(stored.row)
    return stored


def keep_losing(row: JobRow, losing: dict[str, Any], now: datetime) -> None:
    """Keep what Prefect held of these fields and is about to lose; earlier ones stay.

    So does an earlier value of the same field: nobody has decided about it yet.
    """
    kept = (row.conflict or {}).get("fields", {})
    if losing.keys() - kept.keys():
        row.conflict = {"at": now.isoformat(), "fields": {**losing, **kept}}


async def without_conflict(session: AsyncSession, job_id: str) -> None:
    """The conflict is decided for what the ledger has."""
    row = await session.get(JobRow, job_id)
    if row is not None:
        row.conflict = None
        session.add(row)


async def in_conflict(session: AsyncSession) -> list[str]:
    """The ids of the live jobs with a conflict that nobody has decided, by name."""
    those = select(JobRow.id).where(
        col(JobRow.archived_at).is_(None), col(JobRow.conflict).is_not(None)
    )
    return list((await session.execute(those.order_by(col(JobRow.name)))).scalars())


async def job_of(
    session: AsyncSession, deployment_id: str, due: datetime | None = None
) -> str | None:
    """The id of the job with this deployment, or None.

    A live one if there is one, else one that was removed and whose deployment is still to be
    deleted: the claim refuses its runs. None as well where ``due`` was before the deployment was
    taken over as a job: what Prefect queued until then is no job's.
    """
    held = (
        select(JobRow.id, JobRow.owner, JobRow.created_at)
        .where(col(JobRow.deployment_id) == deployment_id)
        .order_by(col(JobRow.archived_at).is_not(None), col(JobRow.created_at).desc())
    )
    found = (await session.execute(held)).first()
    if found is None:
        return None
    job_id, owner, since = found
    return None if owner == PREFECT and due is not None and due < since else str(job_id)


async def agreed(
    session: AsyncSession,
    job_id: str,
    deployment_id: str | None,
    projection: dict[str, Any] | None,
    as_of: datetime,
) -> None:
    """Write down that Prefect holds ``projection`` (None: nothing) for this job.

    ``as_of`` is the job's `updated_at` when the projection was made: a change since then leaves the
    job marked as pending.
    """
    row = await session.get(JobRow, job_id)
    if row is not None:
        row.deployment_id, row.synced = deployment_id, projection
        row.sync_pending = row.updated_at != as_of
        session.add(row)


async def intended(session: AsyncSession, job_id: str, projection: dict[str, Any]) -> None:
    """Write down as what the job's deployment is about to be made, where nothing else is agreed."""
    row = await session.get(JobRow, job_id)
    if row is not None and row.deployment_id is None and row.synced != ABSENT:
        row.synced = projection
        session.add(row)


async def known_as(session: AsyncSession, kind: str, slug: str, deployment_id: str) -> None:
    """Write down the deployment of the job of this kind and slug, if it has none yet.

    Where no live job has them, of the one that was removed before its deployment was known.
    """
    those = (
        select(JobRow)
        .where(
            col(JobRow.kind) == kind,
            col(JobRow.slug) == slug,
            col(JobRow.archived_at).is_(None) | _may_have_one(),
        )
        .order_by(col(JobRow.archived_at).is_not(None), col(JobRow.archived_at).desc())
    )
    row = (await session.execute(those)).scalars().first()
    if row is not None and row.deployment_id is None:
        row.deployment_id = deployment_id
        session.add(row)


async def renamed(session: AsyncSession, job_id: str, slug: str) -> None:
    """Give the job another slug: before its deployment is made, while its name there is taken."""
    row = await session.get(JobRow, job_id)
    if row is not None:
        row.slug = slug
        session.add(row)


async def left_over(session: AsyncSession) -> list[JobRow]:
    """Archived jobs whose deployment is still to be deleted: never one that a live job has.

    Among them those without an id of which nobody has looked whether they have one.
    """
    live = select(JobRow.deployment_id).where(
        col(JobRow.archived_at).is_(None), col(JobRow.deployment_id).is_not(None)
    )
    gone = select(JobRow).where(
        col(JobRow.archived_at).is_not(None),
        (col(JobRow.deployment_id).is_not(None) & col(JobRow.deployment_id).not_in(live))
        | _may_have_one(),
    )
    return list((await session.execute(gone)).scalars())


def _may_have_one() -> ColumnElement[bool]:
    """An archived job whose deployment may be there all the same: a crash kept its id from here."""
    return (
        col(JobRow.archived_at).is_not(None)
        & col(JobRow.deployment_id).is_(None)
        & col(JobRow.sync_pending)
    )
