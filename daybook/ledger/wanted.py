"""Why a due time of a job is not wanted now: what is asked of every one, also of one that waited.

Its schedule and bounds say what is due (`daybook.spec.upcoming`); here is what stands against it at
the moment of the claim, by the job's newest revision (`docs/promise.md` 1: `enabled` and limits are
judged now).
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import func
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook.ledger.jobs import StoredJob
from daybook.ledger.states import HELD, Status
from daybook.ledger.tables import RunRow


async def why_not(session: AsyncSession, row: RunRow, newest: StoredJob) -> str:
    """Why ``row`` is to be skipped; empty when it is wanted.

    One that has begun an attempt goes on, unless its job is off.
    """
    if (why := off(newest)) or row.attempts:
        return why
    return put_off(newest, row.due) or await spent(session, newest, row.id)


def put_off(newest: StoredJob, due: datetime) -> str:
    """Why this due time is not wanted by hand; empty when it is."""
    if due.isoformat() in newest.row.skips:
        return "skipped by hand"
    snoozed = newest.row.snoozed_until
    if snoozed is not None and due < snoozed:
        return f"snoozed until {snoozed:%Y-%m-%d %H:%M:%S} UTC"
    return ""


async def spent(session: AsyncSession, newest: StoredJob, run_id: str = "") -> str:
    """Why no further run than ``run_id`` is wanted: the job has all its runs; else empty."""
    most = newest.job.policy.max_runs
    if most and newest.row.run_count + await _begun(session, newest.id, run_id) >= most:
        return f"max runs: {most} are done or at work"
    return ""


def off(newest: StoredJob) -> str:
    """Why nothing of the job is due: it is off; empty when it is on."""
    if newest.job.enabled:
        return ""
    return f"the job is off: {newest.row.disabled_reason or 'disabled'}"


async def _begun(session: AsyncSession, job_id: str, run_id: str) -> int:
    """How many other runs of the job have begun, or are about to, and not ended."""
    waiting = (col(RunRow.status) == Status.WAITING) & (col(RunRow.attempts) > 0)
    begun = select(func.count()).where(
        col(RunRow.job_id) == job_id,
        col(RunRow.id) != run_id,
        col(RunRow.status).in_(HELD) | waiting,
    )
    count: int = (await session.execute(begun)).scalar_one()
    return count
