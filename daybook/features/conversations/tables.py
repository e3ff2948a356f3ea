"""The tables of conversations: people, codes, updates, sent messages, pictures, and accounts."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import JSON, BigInteger, Index, LargeBinary, text
from sqlmodel import Field

from daybook.json_text import JsonObject
from daybook.ledger.column_types import Instant
from daybook.ledger.table_parts import Table, partial_index
from daybook.ledger.tables import new_id

_UNFINISHED = text("state IN ('new', 'asked')")
_WITH_BUTTONS = text("buttons")


class PersonRow(Table, table=True):
    """A person who may speak in a channel, or a stranger who has tried (``role``).

    ``person_id`` and ``chat_id`` are the service's ids of the person and of the private chat.
    ``used_at`` is when a person last did something, and a stranger last got an answer.
    ``quiet_hours`` are those of `quiet_hours.QuietHours`, "" for none.
    """

    __tablename__ = "conversations_people"
    __table_args__ = (Index("conversations_people_id", "channel", "person_id", unique=True),)

    id: str = Field(default_factory=new_id, primary_key=True)
    channel: str
    person_id: str
    chat_id: str
    name: str
    role: str
    paired_by: str = ""
    paired_at: datetime = Field(sa_type=Instant)
    used_at: datetime = Field(sa_type=Instant)
    quiet_hours: str = ""


class CodeRow(Table, table=True):
    """A code with which one person can pair. ``digest`` is that of the code.

    ``tries`` counts the wrong codes that strangers have sent to the channel since.
    """

    __tablename__ = "conversations_codes"

    digest: str = Field(primary_key=True)
    channel: str
    role: str
    made_by: str
    expires_at: datetime = Field(sa_type=Instant)
    tries: int = 0


class UpdateRow(Table, table=True):
    """A received update, stored before anything is done about it.

    ``state`` is one of `store.UpdateState`. ``content`` has the fields of `platform.Update` that
    are not columns. ``action`` says what was done, and ``run_id`` is the run that it has requested.
    ``draft`` is the message with the text so far of this run (`drafts`): "" for none.
    """

    __tablename__ = "conversations_updates"
    __table_args__ = (
        partial_index("conversations_unfinished", "channel", "position", where=_UNFINISHED),
        Index("conversations_updates_run", "run_id"),
        Index("conversations_updates_last", "channel", "received_at"),
        Index("conversations_updates_received", "received_at"),
    )

    channel: str = Field(primary_key=True)
    id: str = Field(primary_key=True)
    position: int = Field(sa_type=BigInteger)
    kind: str
    chat_id: str
    person_id: str
    person_name: str
    message_id: str
    content: JsonObject = Field(sa_type=JSON, repr=False)
    state: str
    action: str = ""
    run_id: str | None = None
    draft: str = ""
    received_at: datetime = Field(sa_type=Instant)
    handled_at: datetime | None = Field(default=None, sa_type=Instant)


class SentRow(Table, table=True):
    """A message that was sent to a chat: ``part`` of the row ``outbox_id`` of the outbox.

    ``words`` are those that press its buttons, joined by spaces. ``buttons`` is true while it shows
    some that may become invalid.
    """

    __tablename__ = "conversations_messages"
    __table_args__ = (
        Index("conversations_messages_outbox", "outbox_id"),
        Index("conversations_messages_run", "run_id"),
        Index("conversations_messages_sent", "sent_at"),
        partial_index("conversations_buttons", "channel", "sent_at", where=_WITH_BUTTONS),
    )

    channel: str = Field(primary_key=True)
    chat_id: str = Field(primary_key=True)
    message_id: str = Field(primary_key=True)
    outbox_id: str
    part: int
    run_id: str | None = None
    words: str = ""
    buttons: bool = False
    sent_at: datetime = Field(sa_type=Instant)


class PictureRow(Table, table=True):
    """A picture that a person has sent with a request for a run: ``key`` is `store.answer_key`."""

    __tablename__ = "conversations_pictures"
    __table_args__ = (Index("conversations_pictures_received", "received_at"),)

    key: str = Field(primary_key=True)
    number: int = Field(primary_key=True)
    name: str
    content_type: str
    received_at: datetime = Field(sa_type=Instant)
    # Must stay last: SQLite is slow to read columns that follow a long one.
    content: bytes = Field(sa_type=LargeBinary, repr=False)


class AccountRow(Table, table=True):
    """An account that listens: its name at the service, and its problem, "" if it works.

    ``position`` is `platform.Platform.position` in ``place``, which is `platform.Account.place`.
    """

    __tablename__ = "conversations_accounts"

    channel: str = Field(primary_key=True)
    identity: str = ""
    problem: str = ""
    account_id: str = ""
    place: str = ""
    position: int | None = Field(default=None, sa_type=BigInteger)
    position_at: datetime | None = Field(default=None, sa_type=Instant)
    changed_at: datetime = Field(sa_type=Instant)
