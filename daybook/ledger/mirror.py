"""Which ended runs Prefect has still to be told of (`docs/promise.md` 13).

Every outcome of a run that a Prefect run carries marks its row `unmirrored`, in the transaction
that writes it. The mark goes when Prefect was seen to agree or was told, and is never set again but
by another outcome: so a state that somebody changed by hand afterwards is left alone.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook.ledger.engine import Ledger
from daybook.ledger.tables import RunRow


async def unmirrored(session: AsyncSession, before: datetime, limit: int = 100) -> list[RunRow]:
    """Marked runs that ended at ``before`` (UTC) or earlier, oldest first."""
    marked = (
        select(RunRow)
        .where(col(RunRow.unmirrored).is_(True), col(RunRow.finished_at) <= before)
        .order_by(col(RunRow.finished_at), col(RunRow.id))
        .limit(limit)
    )
    return list((await session.execute(marked)).scalars())


async def mirrored(
    ledger: Ledger, run_ids: Collection[str], before: datetime | None = None
) -> None:
    """Take the mark from these runs.

    ``before`` is the instant that `unmirrored` was asked with: a run that got a late outcome since
    then keeps its mark, because what Prefect was told is the outcome before.
    """
    if not run_ids:
        return
    told = update(RunRow).where(col(RunRow.id).in_(run_ids), col(RunRow.unmirrored).is_(True))
    if before is not None:
        told = told.where(col(RunRow.finished_at) <= before)
    async with ledger.write() as session:
        await session.execute(told.values(unmirrored=False))
