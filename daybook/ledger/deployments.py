"""Which Prefect deployment a job is, and what both sides last agreed on."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook.ledger.tables import JobRow


async def job_of(session: AsyncSession, deployment_id: str) -> str | None:
    """The id of the job with this deployment, or None.

    A live one if there is one, else one that was removed and whose deployment is still to be
    deleted: the claim refuses its runs.
    """
    held = (
        select(JobRow.id)
        .where(col(JobRow.deployment_id) == deployment_id)
        .order_by(col(JobRow.archived_at).is_not(None), col(JobRow.created_at).desc())
    )
    return (await session.execute(held)).scalars().first()


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


async def known_as(session: AsyncSession, kind: str, slug: str, deployment_id: str) -> None:
    """Write down the deployment of the job of this kind and slug, if it has none yet."""
    live = select(JobRow).where(
        col(JobRow.kind) == kind, col(JobRow.slug) == slug, col(JobRow.archived_at).is_(None)
    )
    row = (await session.execute(live)).scalars().first()
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
    """Archived jobs whose deployment is still to be deleted: never one that a live job has."""
    live = select(JobRow.deployment_id).where(
        col(JobRow.archived_at).is_(None), col(JobRow.deployment_id).is_not(None)
    )
    gone = select(JobRow).where(
        col(JobRow.archived_at).is_not(None),
        col(JobRow.deployment_id).is_not(None),
        col(JobRow.deployment_id).not_in(live),
    )
    return list((await session.execute(gone)).scalars())
