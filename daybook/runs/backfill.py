"""Backfills: past due times that a person requests again.

Each is a waiting row ``request:<job>:backfill-<instant>``, so repeating the request adds nothing.
The row's due time is the past one, yet scheduled runs go first (`slots.ORDER`), and its deadline
counts from its turn. Disabling the job skips the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook.jobs.store import StoredJob
from daybook.ledger.engine import Ledger
from daybook.ledger.states import LIVE, Status
from daybook.ledger.tables import RunRow
from daybook.runs import claim_requests
from daybook.runs.claims import new_requested_row
from daybook.runs.slots import BACKFILL

_PAGE = 400
"""How many keys one query reads: SQLite limits the number of parameters."""


async def known_statuses(
    session: AsyncSession, job_id: str, instants: Sequence[datetime]
) -> dict[datetime, Status]:
    """Return the status of each of these due times that the ledger knows.

    If there are several rows, a success counts first, then a live row, then the rest.
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
    """Request those due times that have not succeeded, are not live and were not requested before.

    Returns how many were added, in one transaction.
    """
    async with ledger.write() as session:
        statuses = await known_statuses(session, stored.id, instants)
        needed = [each for each in instants if needs_run(statuses.get(each))]
        keys = {_key(stored.id, each): each for each in needed}
        existing = select(RunRow.occurrence).where(
            col(RunRow.job_id) == stored.id, col(RunRow.trigger) == BACKFILL
        )
        for key in (await session.execute(existing)).scalars():
            keys.pop(key, None)
        now = ledger.now()
        for key, instant in keys.items():
            session.add(new_requested_row(stored, key, BACKFILL, instant, now))
        return len(keys)


def needs_run(status: Status | None) -> bool:
    """Return whether a due time with this status is requested again."""
    return status is None or (status is not Status.SUCCEEDED and status not in LIVE)


def _key(job_id: str, instant: datetime) -> str:
    moment = instant.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return claim_requests.request_key(job_id, f"{BACKFILL}-{moment}")
