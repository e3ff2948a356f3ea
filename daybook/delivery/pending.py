"""Pending rows of the outbox that wait for another reason than a failure, or that are withdrawn."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook.delivery import outbox
from daybook.delivery.outbox import PENDING
from daybook.ledger.tables import OutboxRow


async def has_due(session: AsyncSession, queue: str, now: datetime) -> bool:
    """Return whether a row of the queue waits to be sent now, or is being sent."""
    query = select(OutboxRow.id).where(
        PENDING, col(OutboxRow.queue) == queue, col(OutboxRow.next_at) <= now
    )
    return (await session.execute(query.limit(1))).first() is not None


async def postpone(session: AsyncSession, id_: str, until: datetime, queue: str) -> None:
    """Let a pending row wait in this queue until then. The process that sends it keeps its lease.

    The channel calls this in the transaction that finds the reason, so a change of the reason
    finds the row.
    """
    statement = update(OutboxRow).where(PENDING, col(OutboxRow.id) == id_)
    await session.execute(
        statement.values(next_at=until, queue=queue),
        execution_options={"synchronize_session": False},
    )


async def withdraw(session: AsyncSession, key: str, now: datetime) -> None:
    """Suppress the question with this key, which is decided, if no process sends or has sent it."""
    is_free = col(OutboxRow.lease_until).is_(None) | (col(OutboxRow.lease_until) <= now)
    query = select(OutboxRow).where(
        PENDING, col(OutboxRow.key) == outbox.bounded_name(key), is_free
    )
    if (row := (await session.execute(query)).scalar_one_or_none()) is not None:
        await outbox.suppress(session, row, "withdrawn: it was decided before it was sent", now)
