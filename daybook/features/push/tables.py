"""The tables of push: subscribed browsers, and the messages that were pushed."""

from __future__ import annotations

from datetime import datetime

from sqlmodel import Field

from daybook.ledger.column_types import Instant
from daybook.ledger.table_parts import Table


class SubscriptionRow(Table, table=True):
    """A browser's subscription. ``public_key`` and ``auth`` encrypt its messages, in base64url.

    ``id`` is a digest of the endpoint, which is secret. ``session_id`` is that of the login: a
    revoked device gets no message. ``error`` is that of the last attempt; "" if it succeeded.
    """

    __tablename__ = "push_subscriptions"

    id: str = Field(primary_key=True)
    session_id: str
    endpoint: str = Field(repr=False)
    public_key: str = Field(repr=False)
    auth: str = Field(repr=False)
    created_at: datetime = Field(sa_type=Instant)
    pushed_at: datetime | None = Field(default=None, sa_type=Instant)
    error: str = ""


class PushedRow(Table, table=True):
    """A message of the outbox that was pushed, or that no subscription gets any more."""

    __tablename__ = "push_messages"

    id: str = Field(primary_key=True)
    at: datetime = Field(sa_type=Instant)
