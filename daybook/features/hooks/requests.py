"""Runs that requests to hooks start: one for each delivery, and a limited number per minute.

The ledger counts the runs of a hook, so the limit applies to all web servers together, and a
restart does not reset it. Deliveries that start no run do not count.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook.jobs import payloads
from daybook.jobs.store import StoredJob
from daybook.ledger import triggers
from daybook.ledger.engine import Ledger
from daybook.ledger.tables import RunRow
from daybook.runs import claim_requests, claims, rows

PERIOD = timedelta(minutes=1)


@dataclass(frozen=True)
class HookRequest:
    """The run of a delivery; ``is_repeated`` if an earlier request with its id started the run.

    ``run_id`` is None if the hook has started its maximum number of runs in the last minute. It can
    start another one after ``wait``.
    """

    run_id: str | None
    is_repeated: bool = False
    wait: timedelta = timedelta()


async def find(ledger: Ledger, job_id: str, hook: str, delivery_id: str) -> str | None:
    """Return the id of the run of an earlier equal request, without the write lock; or None."""
    async with ledger.read() as session:
        known = await rows.find(session, None, f"{_prefix(job_id, hook)}{delivery_id}")
    return None if known is None else known.id


async def request(
    ledger: Ledger, stored: StoredJob, hook: str, delivery_id: str, payload: Any, *, rate: int
) -> HookRequest:
    """Request the run of a delivery, unless ``hook`` has started ``rate`` runs within a minute."""
    prefix = _prefix(stored.id, hook)
    key = f"{prefix}{delivery_id}"
    async with ledger.write() as session:
        known = await rows.find(session, None, key)
        if known is not None:
            return HookRequest(known.id, is_repeated=True)
        now = ledger.now()
        if (free_at := await _free_at(session, stored.id, prefix, rate, now)) is not None:
            return HookRequest(None, wait=free_at - now)
        row = claims.new_requested_row(stored, key, triggers.HOOK.name, now, now)
        row.found = {payloads.PAYLOAD: payload}
        session.add(row)
        return HookRequest(row.id)


async def latest(session: AsyncSession, job_id: str, hook: str, limit: int) -> list[RunRow]:
    """Return the last ``limit`` runs that ``hook`` has started, newest first."""
    started = col(RunRow.occurrence).startswith(_prefix(job_id, hook), autoescape=True)
    query = select(RunRow).where(col(RunRow.job_id) == job_id, started)
    newest = query.order_by(col(RunRow.queued_at).desc()).limit(limit)
    return list((await session.execute(newest)).scalars())


def _prefix(job_id: str, hook: str) -> str:
    """Return the beginning of the keys of the runs that ``hook`` has started."""
    return claim_requests.request_key(job_id, f"{triggers.HOOK.name}/{hook}/")


async def _free_at(
    session: AsyncSession, job_id: str, prefix: str, rate: int, now: datetime
) -> datetime | None:
    """Return when a run leaves the last minute; None if it has fewer than ``rate`` runs."""
    in_period = (
        col(RunRow.job_id) == job_id,
        col(RunRow.due) > now - PERIOD,
        col(RunRow.due) <= now,
    )
    # Usually, all runs of the job are fewer than the rate. Their number needs only the index.
    of_job = await session.execute(select(func.count()).select_from(RunRow).where(*in_period))
    if of_job.scalar_one() < rate:
        return None
    query = (
        select(RunRow.due)
        .where(*in_period, col(RunRow.occurrence).startswith(prefix, autoescape=True))
        .order_by(col(RunRow.due).desc())
        .offset(rate - 1)
        .limit(1)
    )
    oldest: datetime | None = (await session.execute(query)).scalar_one_or_none()
    return None if oldest is None else oldest + PERIOD
