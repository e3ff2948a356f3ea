"""Quiet hours of people: what Daybook sends by itself to their private chat waits until they end.

::

    claimed ──► held_until ─┬─ answers what the person wrote or pressed here ─────► sent at once
     (`channel`)            ├─ a question whose deadline is before or soon after ─► sent at once
                            ├─ a part of it has arrived ──────────────────────────► sent at once
                            └─ anything else ──► `Postponed`: in the queue of the chat, in its order

The ledger has no other state: all rows that wait in the queue of a chat are due at the end of its
quiet hours. So a change of the quiet hours finds these rows by that instant, and makes them due;
they wait again if the new quiet hours say so.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import func, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook import settings
from daybook.delivery import outbox, pending
from daybook.delivery.channels.base import Postponed
from daybook.errors import InvalidInput
from daybook.features.conversations import store
from daybook.features.conversations.tables import PersonRow
from daybook.ledger.tables import ApprovalRow, OutboxRow
from daybook.runs import approvals
from daybook.schedules import bounds
from daybook.schedules.zones import local_text, zone

DECISION_TIME = timedelta(hours=1)
"""A question is not held back if less than this time for a decision would remain."""
MAX_LENGTH = timedelta(hours=16)
"""Maximum length. A message that fails afterwards is tried until it is a day old."""
OFF = "off"
_HINT = "write 22:00-07:00, 22:00-07:00 Europe/Berlin, or off"


@dataclass(frozen=True)
class QuietHours:
    """A daily window, such as `22:00-07:00`, in a time zone."""

    window: str
    timezone: str

    @classmethod
    def read(cls, text: str) -> QuietHours | None:
        """Return the quiet hours of a text; None for `off` or a blank text. Raise `InvalidInput`.

        Without a zone, it is the zone of the settings.
        """
        given = text.strip()
        if given.lower() in ("", OFF):
            return None
        words = given.split()
        names_zone = len(words) > 1 and words[-1][0].isalpha()
        timezone = words.pop() if names_zone else settings.load().timezone
        window = "".join(words)
        if any(map(str.isalpha, window)):
            raise InvalidInput("quiet_hours", f'"{given}" is not a range of hours', _HINT)
        zone(timezone)
        if timedelta(minutes=bounds.quiet_minutes(window)) > MAX_LENGTH:
            most = MAX_LENGTH // timedelta(hours=1)
            raise InvalidInput("quiet_hours", f"are longer than {most} hours", _HINT)
        return cls(window, timezone)

    def __str__(self) -> str:
        return f"{self.window} {self.timezone}"

    def until(self, instant: datetime) -> datetime | None:
        """Return when the quiet hours around ``instant`` end; None if it is in none."""
        return bounds.quiet_until(self.window, self.timezone, instant)


async def check(
    session: AsyncSession, channel: str, chat_id: str, row: OutboxRow, now: datetime
) -> str:
    """Raise `Postponed` if the row waits; else return a line that the message adds, "" for none."""
    queue = outbox.queue_of_channel(channel, chat_id)
    query = select(PersonRow).where(
        col(PersonRow.channel) == channel,
        col(PersonRow.chat_id) == chat_id,
        col(PersonRow.quiet_hours) != "",
    )
    person = (await session.execute(query.limit(1))).scalar_one_or_none()
    hours = QuietHours.read(person.quiet_hours) if person else None
    until = hours.until(now) if hours else None
    if person is None or hours is None or until is None:
        # A row that does not name the chat comes after those that have waited for this chat.
        if row.queue != queue and await pending.has_due(session, queue, now):
            raise Postponed("waits for the earlier messages of this chat", now, queue)
        return ""
    if await store.requested_by(session, row, channel, chat_id):
        return ""
    if await store.parts_sent(session, row.id):
        return ""
    if (deadline := await _deadline(session, row)) and deadline < until + DECISION_TIME:
        return "This is sent in your quiet hours, because the decision cannot wait until they end."
    why = f"waits until {local_text(until, hours.timezone)}: quiet hours of {person.name}"
    raise Postponed(why, until, queue)


async def _deadline(session: AsyncSession, row: OutboxRow) -> datetime | None:
    """Return until when a person has to answer the question ``row``; None if it is none."""
    if row.event != approvals.EVENT or row.run_id is None:
        return None
    number = int(row.key.rpartition(":")[2])
    asked = await session.get(ApprovalRow, (row.run_id, number))
    return asked.deadline if asked else None


async def change(session: AsyncSession, person: PersonRow, text: str, now: datetime) -> int:
    """Set a person's quiet hours, or none. Return the number of messages that waited.

    These become due. Raise `InvalidInput`, and change nothing.
    """
    hours = QuietHours.read(text)
    count = await release(session, person, now)
    person.quiet_hours = str(hours) if hours else ""
    session.add(person)
    return count


async def release(session: AsyncSession, person: PersonRow, now: datetime) -> int:
    """Make the messages due that wait for the end of a person's quiet hours. Return their number.

    They keep their order.
    """
    hours = QuietHours.read(person.quiet_hours)
    until = hours.until(now) if hours else None
    if until is None:
        return 0
    waits = (
        outbox.PENDING,
        col(OutboxRow.queue) == outbox.queue_of_channel(person.channel, person.chat_id),
        col(OutboxRow.next_at) == until,
    )
    count: int = (await session.execute(select(func.count()).where(*waits))).scalar_one()
    values = {"next_at": OutboxRow.created_at}
    released = update(OutboxRow).where(*waits).values(values)
    await session.execute(released, execution_options={"synchronize_session": False})
    return count
