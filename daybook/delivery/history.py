"""Queries for the results of callbacks, messages and alerts, the inbox, and the outbox's health."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import case, func, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook.delivery import alerts, outbox, sending
from daybook.delivery.outbox import PENDING
from daybook.delivery.views import OutboxHealth, PausedQueue
from daybook.errors import Ambiguous, NotFound
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Delivery
from daybook.ledger.tables import OutboxRow, QueueRow

ID_PREFIX = "msg_"
"""Prefix of the id of every outbox row. A user may omit the prefix."""

_NEWEST = (col(OutboxRow.created_at).desc(), col(OutboxRow.id))


async def list_for_run(session: AsyncSession, run_id: str) -> list[OutboxRow]:
    """Return all outbox rows about a run, oldest first."""
    query = select(OutboxRow).where(col(OutboxRow.run_id) == run_id)
    ordered = query.order_by(col(OutboxRow.created_at), col(OutboxRow.key))
    return list((await session.execute(ordered)).scalars())


async def alert_statuses(session: AsyncSession, run_ids: Collection[str]) -> dict[str, str]:
    """Return the status of the operator's alert about each run that has an alert, by run id.

    If a run has several alerts, the worst status counts: failed, then pending, then delivered.
    Withdrawn alerts do not count.
    """
    query = select(OutboxRow.run_id, OutboxRow.status).where(
        col(OutboxRow.run_id).in_(run_ids),
        col(OutboxRow.purpose) == outbox.ALERT,
        col(OutboxRow.status) != Delivery.SUPPRESSED,
    )
    worst = [Delivery.DELIVERED, Delivery.PENDING, Delivery.FAILED]
    rows = (await session.execute(query)).tuples().all()
    return {str(run): status for run, status in sorted(rows, key=lambda row: worst.index(row[1]))}


async def has_untried(session: AsyncSession, run_id: str, now: datetime) -> bool:
    """Return whether a run has a due row without an attempt, in a queue that is not paused.

    Rows of listeners do not count, because the process that has the listener may have exited.
    """
    paused = select(QueueRow.queue).where(col(QueueRow.paused_until) > now)
    untried_rows = select(OutboxRow.id).where(
        col(OutboxRow.run_id) == run_id,
        outbox.PENDING,
        col(OutboxRow.purpose) != outbox.LISTENER,
        col(OutboxRow.attempts) == 0,
        col(OutboxRow.next_at) <= now,
        col(OutboxRow.queue).not_in(paused),
    )
    return (await session.execute(untried_rows.limit(1))).first() is not None


async def recent(
    session: AsyncSession,
    *,
    status: str | None = None,
    job_id: str | None = None,
    limit: int = 50,
) -> list[OutboxRow]:
    """Return at most ``limit`` rows, newest first, of one job or all, with one status or any.

    Omit wakes of live agents, because the feature that sends them shows them. Raise ValueError for
    an unknown status.
    """
    rows = select(OutboxRow).where(col(OutboxRow.purpose) != outbox.WAKE)
    rows = rows.order_by(*_NEWEST).limit(limit)
    if job_id is not None:
        rows = rows.where(col(OutboxRow.job_id) == job_id)
    if status is not None:
        rows = rows.where(col(OutboxRow.status) == outbox.sql_literal(Delivery(status)))
    return list((await session.execute(rows)).scalars())


async def find(session: AsyncSession, ref: str) -> OutboxRow:
    """Return the row with this id or unique id prefix. Raise `NotFound` or `Ambiguous`."""
    prefix = ref if ref.startswith(ID_PREFIX) else f"{ID_PREFIX}{ref}"
    prefixed = select(OutboxRow).where(col(OutboxRow.id).startswith(prefix, autoescape=True))
    matches = (
        list((await session.execute(prefixed.limit(5))).scalars()) if prefix != ID_PREFIX else []
    )
    if len(matches) > 1:
        raise Ambiguous("callback", ref, [row.id[: len(ID_PREFIX) + 12] for row in matches])
    if not matches:
        raise NotFound("callback", ref)
    row_found: OutboxRow = matches[0]
    return row_found


async def inbox(
    session: AsyncSession,
    *,
    unread_only: bool = False,
    job_id: str | None = None,
    events: Collection[str] | None = None,
    limit: int = 50,
) -> list[OutboxRow]:
    """Return at most ``limit`` messages of the inbox, newest first.

    The arguments select only unread messages, messages of one job, or messages about these events.
    """
    messages = select(OutboxRow).where(outbox.IN_INBOX, col(OutboxRow.status) == Delivery.DELIVERED)
    if unread_only:
        messages = messages.where(outbox.UNREAD)
    if job_id is not None:
        messages = messages.where(col(OutboxRow.job_id) == job_id)
    if events is not None:
        messages = messages.where(col(OutboxRow.event).in_(events))
    return list((await session.execute(messages.order_by(*_NEWEST).limit(limit))).scalars())


async def mark_read(ledger: Ledger, ids: Collection[str] | None = None) -> int:
    """Mark the inbox messages ``ids`` (None: all) as read.

    Return the number of unread ones among them.
    """
    async with ledger.write() as session:
        unread = update(OutboxRow).where(outbox.UNREAD, col(OutboxRow.status) == Delivery.DELIVERED)
        if ids is not None:
            unread = unread.where(col(OutboxRow.id).in_(ids))
        result = await session.execute(
            unread.values(read_at=ledger.now()), execution_options={"synchronize_session": False}
        )
        return int(result.rowcount)  # type: ignore[attr-defined]


async def health(session: AsyncSession, now: datetime) -> OutboxHealth:
    """Return the counts of the outbox, its paused queues, and the unread messages of the inbox."""
    # Select by queue, because the index of pending rows contains the queue and not the purpose.
    wakes = col(OutboxRow.queue).startswith(outbox.queue_of_client(""))
    waits = col(OutboxRow.next_at) > OutboxRow.created_at
    at_once = func.min(case((~waits, OutboxRow.created_at)))
    pending = select(func.count(), at_once).where(PENDING, ~wakes)
    count, oldest = (await session.execute(pending)).one()
    # A row that waits on purpose, such as in quiet hours, is not late; a retried one is.
    is_due = col(OutboxRow.next_at) <= now
    since = case((col(OutboxRow.attempts) > 0, OutboxRow.created_at), (is_due, OutboxRow.next_at))
    late = select(func.min(since)).where(PENDING, ~wakes, waits)
    times = [oldest, (await session.execute(late)).scalar_one()]
    failed = select(func.count()).where(sending.retryable())
    unread = (
        select(OutboxRow.event, func.count())
        .where(outbox.UNREAD, col(OutboxRow.status) == Delivery.DELIVERED)
        .group_by(col(OutboxRow.event))
    )
    by_event = dict((await session.execute(unread)).tuples().all())
    paused = select(QueueRow).where(col(QueueRow.paused_until).is_not(None))
    rows = await session.execute(paused.order_by(col(QueueRow.since)))
    return OutboxHealth(
        pending=count,
        oldest_pending_at=min(filter(None, times), default=None),
        in_flight=sum((await sending.in_flight(session, now)).values()),
        failed=(await session.execute(failed)).scalar_one(),
        paused=[PausedQueue.of(row) for row in rows.scalars()],
        unread=sum(by_event.values()),
        unread_alerts=sum(by_event.get(event, 0) for event in alerts.ALERT_EVENTS),
    )
