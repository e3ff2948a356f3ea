"""The subscriptions, and the messages that are still to be pushed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from urllib.parse import urlsplit

from sqlalchemy import delete, func
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook.delivery import outbox
from daybook.delivery.alerts import ALERT_EVENTS
from daybook.errors import InvalidInput
from daybook.features.push import encryption
from daybook.features.push.tables import PushedRow, SubscriptionRow
from daybook.http.guard import Guard, Rule
from daybook.ledger.engine import Ledger, open_ledger, reading
from daybook.ledger.states import Delivery
from daybook.ledger.tables import OutboxRow
from daybook.runs.retention import BATCH_SIZE, RetentionLimits

MAX_SUBSCRIPTIONS = 20
MAX_ENDPOINT_LENGTH = 2_000
MAX_AGE = timedelta(hours=12)
"""Age from which a message is no longer pushed, such as after an outage."""
QUIET_EVENTS = ("recovered", "progress")
"""Events of the operator's channel that need no person."""


@dataclass(frozen=True)
class PushSubscription:
    """A subscription as the page shows it, without its secrets. ``service`` is a host name."""

    id: str
    service: str
    created_at: datetime
    pushed_at: datetime | None
    error: str


async def subscribe(session_id: str, endpoint: str, public_key: str, auth: str) -> None:
    """Store a browser's subscription, or renew it. Raise `InvalidInput` and `OutgoingRefused`."""
    if len(endpoint) > MAX_ENDPOINT_LENGTH:
        raise InvalidInput("endpoint", "is too long", "subscribe again")
    Guard.from_settings(Rule.AGENT).check(endpoint)
    try:
        encryption.encrypt(b"", encryption.decode(public_key), encryption.decode(auth))
        is_valid = len(encryption.decode(auth)) == encryption.AUTH_LENGTH
    except ValueError:
        is_valid = False
    if not is_valid:
        raise InvalidInput("keys", "are not those of a browser", "subscribe again")
    id_ = hashlib.sha256(endpoint.encode()).hexdigest()[:16]
    async with open_ledger() as ledger, ledger.write() as session:
        row = await session.get(SubscriptionRow, id_)
        if row is None:
            count = select(func.count()).select_from(SubscriptionRow)
            if (await session.execute(count)).scalar_one() >= MAX_SUBSCRIPTIONS:
                hint = "remove one that is no longer used"
                raise InvalidInput("push", f"has {MAX_SUBSCRIPTIONS} browsers already", hint)
            row = SubscriptionRow(
                id=id_,
                session_id=session_id,
                endpoint=endpoint,
                public_key=public_key,
                auth=auth,
                created_at=ledger.now(),
            )
        row.session_id, row.public_key, row.auth, row.error = session_id, public_key, auth, ""
        session.add(row)


async def unsubscribe(id_: str) -> None:
    """Delete a subscription, if it is stored."""
    async with open_ledger() as ledger, ledger.write() as session:
        await session.execute(delete(SubscriptionRow).where(col(SubscriptionRow.id) == id_))


async def subscriptions() -> list[PushSubscription]:
    """Return the subscriptions, oldest first."""
    async with reading() as session:
        return [
            PushSubscription(
                each.id,
                urlsplit(each.endpoint).hostname or "",
                each.created_at,
                each.pushed_at,
                each.error,
            )
            for each in await stored(session)
        ]


async def stored(session: AsyncSession) -> Sequence[SubscriptionRow]:
    """Return the rows of the subscriptions, oldest first."""
    query = select(SubscriptionRow).order_by(col(SubscriptionRow.created_at))
    return (await session.execute(query)).scalars().all()


async def pending(session: AsyncSession, since: datetime, now: datetime) -> list[OutboxRow]:
    """Return the messages that need a person and were not pushed, oldest first.

    They were made at or after ``since``, and are or were due at ``now``: an alert that waits until
    the hour of its job is over may still be withdrawn. The quiet hours of a chat are only its own.
    """
    is_alert = (col(OutboxRow.purpose) == outbox.ALERT) & ~col(OutboxRow.event).in_(QUIET_EVENTS)
    is_question = (col(OutboxRow.purpose) == outbox.MESSAGE) & col(OutboxRow.event).in_(
        sorted(ALERT_EVENTS)
    )
    is_due = (col(OutboxRow.next_at) <= now) | (col(OutboxRow.fence) > 0)
    query = (
        select(OutboxRow)
        .where(
            col(OutboxRow.created_at) >= max(since, now - MAX_AGE),
            is_alert | is_question,
            is_due,
            col(OutboxRow.status) != Delivery.SUPPRESSED,
            ~select(PushedRow.id).where(col(PushedRow.id) == col(OutboxRow.id)).exists(),
        )
        .order_by(col(OutboxRow.created_at))
        .limit(BATCH_SIZE)
    )
    return list((await session.execute(query)).scalars())


async def delete_old(ledger: Ledger, limits: RetentionLimits) -> int:
    """Delete one batch of the records of pushed messages. Return their number."""
    old = select(PushedRow.id).where(col(PushedRow.at) <= ledger.now() - 2 * MAX_AGE)
    async with ledger.read() as session:
        if (await session.execute(old.limit(1))).first() is None:
            return 0
    async with ledger.write() as session:
        ids = list((await session.execute(old.limit(BATCH_SIZE))).scalars())
        await session.execute(delete(PushedRow).where(col(PushedRow.id).in_(ids)))
        return len(ids)
