"""How far the ends in Prefect were read: up to there the ledger knows of each (`promise.md` 13).

It outlives every leader. So the next one goes on where the last one was, however long nobody led;
and the row of a run that was started in Prefect stays until its end was read for good (`prune`).
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import func
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook.ledger.engine import Ledger
from daybook.ledger.tables import Fact, JobRow

_KEY = "ends_read"


async def until(session: AsyncSession) -> datetime | None:
    """Up to when (UTC), by the time of the end; None before the first was read."""
    fact = await session.get(Fact, _KEY)
    return None if fact is None else datetime.fromisoformat(fact.value)


async def advance(ledger: Ledger, to: datetime) -> None:
    """They were read up to ``to`` (UTC); never back, but from beyond the ledger's now."""
    async with ledger.write() as session:
        fact = await session.get(Fact, _KEY) or Fact(key=_KEY, value="")
        if not fact.value or not to <= datetime.fromisoformat(fact.value) <= ledger.now():
            fact.value = to.isoformat()
            session.add(fact)


async def oldest(session: AsyncSession) -> datetime | None:
    """When the first job was made: no run of this ledger ended before; None without any job."""
    found: datetime | None = (
        await session.execute(select(func.min(col(JobRow.created_at))))
    ).scalar_one()
    return found
