"""What became of callbacks, messages and alerts, for those who look; and the inbox."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook.delivery import outbox
from daybook.errors import Ambiguous, NotFound
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Delivery
from daybook.ledger.tables import LaneRow, OutboxRow

PREFIX = "msg_"
"""How every id begins; it may be left out where one is named."""

_NEWEST = (col(OutboxRow.created_at).desc(), col(OutboxRow.id))


async def of_run(session: AsyncSession, run_id: str) -> list[OutboxRow]:
    """All that was asked for of a run, oldest first."""
    of_run = select(OutboxRow).where(col(OutboxRow.run_id) == run_id)
    ordered = of_run.order_by(col(OutboxRow.created_at), col(OutboxRow.key))
    return list((await session.execute(ordered)).scalars())


async def alerts(session: AsyncSession, run_ids: Collection[str]) -> dict[str, str]:
    """Return the status of the alert to the operator for each of these runs that has one.

    Of several alerts of one run the worst; those that were withdrawn do not count.
    """
    of_runs = select(OutboxRow.run_id, OutboxRow.status).where(
        col(OutboxRow.run_id).in_(run_ids),
        col(OutboxRow.purpose) == outbox.ALERT,
        col(OutboxRow.status) != Delivery.SUPPRESSED,
    )
    worst = [Delivery.DELIVERED, Delivery.PENDING, Delivery.FAILED]
    rows = (await session.execute(of_runs)).tuples().all()
    return {str(run): status for run, status in sorted(rows, key=lambda row: worst.index(row[1]))}


async def untried(session: AsyncSession, run_id: str, now: datetime) -> bool:
    """Whether anything of a run may be sent by now and was not tried: not a paused lane's.

    Listeners are not waited for: whoever has them may be away.
    """
    paused = select(LaneRow.lane).where(col(LaneRow.paused_until) > now)
    waits = select(OutboxRow.id).where(
        col(OutboxRow.run_id) == run_id,
        outbox.PENDING,
        col(OutboxRow.purpose) != outbox.LISTENER,
        col(OutboxRow.attempts) == 0,
        col(OutboxRow.next_at) <= now,
        col(OutboxRow.lane).not_in(paused),
    )
    return (await session.execute(waits.limit(1))).first() is not None


async def recent(
    session: AsyncSession,
    *,
    status: str | None = None,
    job_id: str | None = None,
    limit: int = 50,
) -> list[OutboxRow]:
    """What was asked for, newest first; of one job, or with this status.

    Without the wakes of task sessions: those are told with their tasks.
    """
    rows = select(OutboxRow).where(col(OutboxRow.purpose) != outbox.WAKE)
    rows = rows.order_by(*_NEWEST).limit(limit)
    if job_id is not None:
        rows = rows.where(col(OutboxRow.job_id) == job_id)
    if status is not None:
        rows = rows.where(col(OutboxRow.status) == outbox.literal(Delivery(status)))
    return list((await session.execute(rows)).scalars())


async def find(session: AsyncSession, ref: str) -> OutboxRow:
    """The row with this id or unique id prefix; raises `NotFound`, `Ambiguous`."""
    prefix = ref if ref.startswith(PREFIX) else f"{PREFIX}{ref}"
    prefixed = select(OutboxRow).where(col(OutboxRow.id).startswith(prefix, autoescape=True))
    fits = list((await session.execute(prefixed.limit(5))).scalars()) if prefix != PREFIX else []
    if len(fits) > 1:
        raise Ambiguous("callback", ref, [row.id[: len(PREFIX) + 12] for row in fits])
    if not fits:
        raise NotFound("callback", ref)
    found: OutboxRow = fits[0]
    return found


async def inbox(
    session: AsyncSession,
    *,
    unread_only: bool = False,
    job_id: str | None = None,
    events: Collection[str] | None = None,
    limit: int = 50,
) -> list[OutboxRow]:
    """What was told to the inbox, newest first; of one job, or of these events."""
    there = select(OutboxRow).where(
        col(OutboxRow.address) == outbox.literal(outbox.INBOX),
        col(OutboxRow.status) == Delivery.DELIVERED,
    )
    if unread_only:
        there = there.where(outbox.UNREAD)
    if job_id is not None:
        there = there.where(col(OutboxRow.job_id) == job_id)
    if events is not None:
        there = there.where(col(OutboxRow.event).in_(events))
    return list((await session.execute(there.order_by(*_NEWEST).limit(limit))).scalars())


async def mark_read(ledger: Ledger, ids: Collection[str] | None = None) -> int:
    """Mark these messages of the inbox as read, or all; returns how many were unread."""
    async with ledger.write() as session:
        unread = update(OutboxRow).where(outbox.UNREAD, col(OutboxRow.status) == Delivery.DELIVERED)
        if ids is not None:
            unread = unread.where(col(OutboxRow.id).in_(ids))
        done = await session.execute(
            unread.values(read_at=ledger.now()), execution_options={"synchronize_session": False}
        )
        return int(done.rowcount)  # type: ignore[attr-defined]
