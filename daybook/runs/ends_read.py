"""How far the keeper has read the ends of Prefect runs (`docs/promise.md` 13).

Up to this mark the ledger knows each end. The mark outlives every leader, so the next leader
continues where the last one stopped. The row of a run that was started in Prefect is kept until its
end cannot be read again (`daybook.runs.retention`).
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import func
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook.ledger.engine import Ledger
from daybook.ledger.tables import Fact, JobRow

_KEY = "ends_read"


async def read_until(session: AsyncSession) -> datetime | None:
    """Return the mark (UTC), by the time of the end; None before the first read."""
    fact = await session.get(Fact, _KEY)
    return None if fact is None else datetime.fromisoformat(fact.value)


async def advance(ledger: Ledger, to: datetime) -> None:
    """Move the mark to ``to`` (UTC); never back, unless it lies beyond the ledger's now."""
    async with ledger.write() as session:
        fact = await session.get(Fact, _KEY) or Fact(key=_KEY, value="")
        if not fact.value or not to <= datetime.fromisoformat(fact.value) <= ledger.now():
            fact.value = to.isoformat()
            session.add(fact)


async def first_job_created_at(session: AsyncSession) -> datetime | None:
    """Return when the first job was made; None without any job.

    No run of this ledger ended before that.
    """
    created_at: datetime | None = (
        await session.execute(select(func.min(col(JobRow.created_at))))
    ).scalar_one()
    return created_at
