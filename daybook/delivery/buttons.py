"""Buttons of messages: what a person can do about a message where it was delivered.

Features add them (`Feature.message_buttons`). They are computed when the message is sent, and again
when a person presses one, so a button stays valid only as long as its action makes sense. A channel
that cannot show buttons leaves them out.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncSession

from daybook.feature import features, leaving_out
from daybook.ledger.tables import OutboxRow


@dataclass(frozen=True)
class Press:
    """A person's press on a button.

    ``by`` is the person, for records, and ``reason`` what the person wrote about it. ``id`` is the
    same if the press is repeated. ``address`` and ``chat_id`` are the channel and the chat of it.
    """

    id: str
    by: str
    address: str
    chat_id: str
    reason: str = ""


@dataclass(frozen=True)
class MessageButton:
    """A button. ``word`` is its name within the message, and ``label`` its text.

    A reply that is the ``word``, or one of ``words``, presses it too; if the button
    ``takes_reason``, a reason may follow. ``may_lapse`` says whether the button may become invalid
    soon, so that the channel has to remove it. ``press`` does what the button says, and returns a
    text for the person, in Markdown. It must be idempotent for one `Press.id`. It raises
    `DaybookError` if nothing was done.
    """

    word: str
    label: str
    press: Callable[[Press], Awaitable[str]]
    words: tuple[str, ...] = ()
    takes_reason: bool = False
    may_lapse: bool = True

    @property
    def all_words(self) -> tuple[str, ...]:
        return (self.word, *self.words)


async def of(session: AsyncSession, row: OutboxRow) -> list[MessageButton]:
    """Return the buttons that the message ``row`` has now."""
    found = list[MessageButton]()
    for each in features():
        if each.message_buttons:
            with leaving_out(each, "message_buttons"):
                found += await each.load(each.message_buttons)(session, row)
    return found
