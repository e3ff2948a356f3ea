"""Pending rows of the outbox: those that wait, that need not wait longer, or that are withdrawn."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, or_, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook.delivery import outbox
from daybook.delivery.outbox import PENDING
from daybook.ledger.engine import Ledger
from daybook.ledger.tables import OutboxRow, QueueRow


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


async def send_now(ledger: Ledger, channel: str) -> None:
    """Let the messages to a channel that failed and wait be sent now: its account works again.

    They keep their order, and the pauses of their queues end. Their attempts start again at 1, as
    those before said nothing about the messages; `sending.MAX_DELIVERY_AGE` counts as before. A
    message that is being sent meanwhile waits for its next attempt, as after any failure.
    """
    queue = outbox.queue_of_channel(channel)

    def is_of_channel(column: Any) -> ColumnElement[bool]:
        return or_(column == queue, column.startswith(f"{queue}/", autoescape=True))

    now = ledger.now()
    waiting = (
        PENDING,
        is_of_channel(col(OutboxRow.queue)),
        col(OutboxRow.attempts) > 0,
        or_(col(OutboxRow.attempts) > 1, col(OutboxRow.next_at) > col(OutboxRow.created_at)),
    )
    paused = (is_of_channel(col(QueueRow.queue)), col(QueueRow.paused_until) > now)
    async with ledger.read() as session:
        first = (select(OutboxRow.id).where(*waiting), select(QueueRow.queue).where(*paused))
        if not any([(await session.execute(each.limit(1))).first() for each in first]):
            return
    released = update(OutboxRow).where(*waiting)
    async with ledger.write() as session:
        for statement in (
            released.values(next_at=OutboxRow.created_at, attempts=1),
            update(QueueRow).where(*paused).values(paused_until=now),
        ):
            await session.execute(statement, execution_options={"synchronize_session": False})
