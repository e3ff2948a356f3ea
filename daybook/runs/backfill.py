"""Backfills: past due times that the user requests again.

Each backfill is a waiting row with the key ``request:<job>:backfill-<instant>``, so a repeated
request adds nothing. The row has the past due time, but scheduled runs get slots first
(`slots.ORDER`), and the run's deadline counts from the claim that grants the run. If the user
disables the job, its remaining backfills are skipped.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook.jobs import lateness
from daybook.jobs.store import StoredJob
from daybook.ledger import triggers
from daybook.ledger.engine import Ledger
from daybook.ledger.states import LIVE, Status
from daybook.ledger.tables import JobRow, RunRow
from daybook.runs import claim_requests
from daybook.runs.claims import new_requested_row

_PAGE = 400
"""Maximum number of keys in one query: SQLite limits the number of parameters."""


async def known_statuses(
    session: AsyncSession, job_id: str, instants: Sequence[datetime]
) -> dict[datetime, Status]:
    """Return the statuses of the due times that have a row of their own; the others are absent.

    A due time inside a range (`missed_ranges`) has no row of its own, unless it is the range's
    first due time. The row of a backfill counts too. If a due time has several rows, a succeeded
    row takes precedence over a live row, and a live row over any other row.
    """
    by_key = {claim_requests.due_key(job_id, each): each for each in instants}
    by_key |= {_key(job_id, each): each for each in instants}
    statuses: dict[datetime, list[Status]] = {}
    keys = list(by_key)
    for start in range(0, len(keys), _PAGE):
        page = select(RunRow.occurrence, RunRow.status).where(
            col(RunRow.occurrence).in_(keys[start : start + _PAGE])
        )
        for key, status in (await session.execute(page)).all():
            statuses.setdefault(by_key[key], []).append(Status(status))
    return {each: min(states, key=_rank) for each, states in statuses.items()}


def _rank(status: Status) -> int:
    return 0 if status is Status.SUCCEEDED else 1 if status in LIVE else 2


async def request_runs(ledger: Ledger, stored: StoredJob, instants: Sequence[datetime]) -> int:
    """Request a run for each due time of `missing_runs` in one transaction; return their number."""
    async with ledger.write() as session:
        now = ledger.now()
        missing = await missing_runs(session, stored, instants, now)
        for key, instant in missing.items():
            session.add(new_requested_row(stored, key, triggers.BACKFILL.name, instant, now))
        return len(missing)


async def missing_runs(
    session: AsyncSession, stored: StoredJob, instants: Sequence[datetime], now: datetime
) -> dict[str, datetime]:
    """Return the due times that need a run, as a mapping from the occurrence key of the new run.

    A due time needs a run if it has not succeeded, has no live run, and no earlier backfill
    requested it. A due time that the audit has not reached yet needs none if the catch-up policy
    will start its run.
    """
    job_id = stored.id
    audited = select(JobRow.audited_until).where(col(JobRow.id) == job_id)
    until = (await session.execute(audited)).scalar_one()
    statuses = await known_statuses(session, job_id, instants)

    def is_missing(due: datetime) -> bool:
        if due in statuses:
            return statuses[due] not in LIVE | {Status.SUCCEEDED}
        return due <= until or not lateness.judge_at(stored, due, now).runs

    keys = {_key(job_id, each): each for each in instants if is_missing(each)}
    existing = select(RunRow.occurrence).where(
        col(RunRow.job_id) == job_id, col(RunRow.trigger) == triggers.BACKFILL.name
    )
    for key in (await session.execute(existing)).scalars():
        keys.pop(key, None)
    return keys


def _key(job_id: str, instant: datetime) -> str:
    moment = instant.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return claim_requests.request_key(job_id, f"{triggers.BACKFILL.name}-{moment}")
