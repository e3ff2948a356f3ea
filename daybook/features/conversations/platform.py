"""The port between conversations and a messaging service.

An adapter, such as `telegram`, connects one account of a service: it reads what people write and
press, and sends, edits and marks messages. It knows neither jobs, nor people, nor the ledger.

To add a service, write an adapter with a `Platform`, its settings, and its `Account`; add these to
`accounts.KINDS`, and the document, the block and the channel to the feature's descriptor.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import Protocol

from daybook.delivery.attachments import Attachment
from daybook.errors import DaybookError


class UpdateKind(StrEnum):
    """What a person has done: written a message, or pressed a button."""

    MESSAGE = "message"
    PRESS = "press"


@dataclass(frozen=True)
class Update:
    """One thing that a person has done in a chat.

    ``id`` is unique for the account, and the same if the service delivers it again; ``position`` is
    its order. ``message_id`` is the person's message or, for a press, the message with the button,
    whose word is ``button``; ``press_id`` acknowledges it. ``reply_to`` is the message that the
    person answers, and ``quoted`` the text of it. ``thread_id`` is the first message of the thread
    that the message belongs to, "" for none; the id of any other message in this thread is
    ``thread_id``, a slash, and a part of its own. ``is_addressed`` is true in a private chat, and
    in a group if the message mentions or answers the account. ``unreadable`` names a content that
    is no text and no picture, such as `a voice message`; "" if there is none. ``pictures`` are ids
    for `Platform.read_pictures`. ``subject`` is that of a letter (``is_letter``): in it, a
    signature may follow after a command or a decision.
    ``is_verified`` is false if the service does not know that the message is from ``person_id``,
    such as for a letter whose sender may be forged.
    """

    id: str
    position: int
    kind: UpdateKind
    chat_id: str
    person_id: str
    person_name: str
    message_id: str
    text: str = ""
    button: str = ""
    press_id: str = ""
    reply_to: str = ""
    thread_id: str = ""
    quoted: str = ""
    unreadable: str = ""
    pictures: tuple[str, ...] = ()
    is_group: bool = False
    is_addressed: bool = True
    is_forwarded: bool = False
    is_letter: bool = False
    subject: str = ""
    is_verified: bool = True

    @property
    def has_optional_pictures(self) -> bool:
        """Return whether the text counts without them: those of a letter may be a signature."""
        return self.is_letter and bool(self.text.strip())

    @property
    def answers(self) -> str:
        """Return the message that the update answers, or whose button it presses; "" if none."""
        return self.message_id if self.kind is UpdateKind.PRESS else self.reply_to


@dataclass(frozen=True)
class ReceivedPicture:
    """A file that a person has sent as a picture. Neither its name nor its content was checked."""

    name: str
    content: bytes = field(repr=False)


@dataclass(frozen=True)
class Post:
    """A message to a chat: ``text`` is Markdown, and ``note`` is shown unchanged after it.

    ``buttons`` are words with labels. ``reply_to`` is the message that it answers; "" for none. A
    post with ``files`` carries them; in a chat it is one file, whose caption is the text. ``key``
    is the same if the post is sent again. A letter has a ``subject``, and its text may be plain. A
    draft is left out rather than sent late, and it ends no sign of `Platform.show_typing`.
    """

    chat_id: str
    text: str = ""
    note: str = ""
    buttons: Sequence[tuple[str, str]] = ()
    reply_to: str = ""
    files: Sequence[Attachment] = ()
    key: str = ""
    subject: str = ""
    is_markdown: bool = True
    is_draft: bool = False


class PlatformError(DaybookError):
    """The service did not do what was requested.

    ``is_temporary`` is false if a repetition cannot help. ``retry_after`` is the minimum number of
    seconds before the next request. The message contains no secret.
    """

    code = "platform_error"

    def __init__(
        self, message: str, *, is_temporary: bool = True, retry_after: float = 0.0
    ) -> None:
        self.is_temporary, self.retry_after = is_temporary, retry_after
        super().__init__(message)


class AccessRevoked(PlatformError):
    """The service refuses the account's token, until the operator stores a new one."""


class AccountReplaced(Exception):
    """The channel has another account by now, or the account another place."""


class UsedElsewhere(PlatformError):
    """Another program receives the updates of this account."""


class Platform(Protocol):
    """An open connection to one account. All methods raise `PlatformError`.

    ``max_characters`` is the maximum length of a message's text. If messages are letters
    (``is_letter``), each has a subject, and its files. ``position`` is the one after which
    `receive` reads next, also if what it has read is no update; None before it has read anything,
    and if the service keeps it. A position is valid for ``position_lifetime``; None for ever.
    """

    max_characters: int
    is_letter: bool
    position: int | None
    position_lifetime: timedelta | None

    async def identity(self) -> str:
        """Return the account's name, as people find it, such as `@morning_bot`."""
        ...

    async def receive(self, after: int | None) -> Sequence[Update]:
        """Return the updates with a position above ``after``, oldest first.

        Wait until there are some, for at most half a minute; then return an empty sequence. The
        service may delete the updates up to ``after``: the caller has stored them.
        """
        ...

    async def confirm(self, updates: Sequence[Update]) -> None:
        """Acknowledge updates of `receive`, which the caller has stored, to the service.

        A service that needs no acknowledgement does nothing here. It delivers updates again that
        were not acknowledged.
        """
        ...

    async def read_pictures(self, ids: Sequence[str]) -> Sequence[ReceivedPicture]:
        """Return the pictures with these ids, of one `Update`.

        Raise also `InvalidInput` if one is too large.
        """
        ...

    async def show_typing(self, chat_id: str, message_id: str) -> None:
        """Show in the chat that an answer to the message is being written.

        The caller repeats it every few seconds until there is an answer.
        """
        ...

    async def acknowledge(self, press_id: str, text: str) -> None:
        """Confirm a press to the person, with a short text or none."""
        ...

    async def send(self, post: Post) -> str:
        """Send a message. Return its id in the chat."""
        ...

    async def edit(self, message_id: str, post: Post) -> None:
        """Replace the text and the buttons of a message."""
        ...

    async def delete(self, chat_id: str, message_id: str) -> None:
        """Delete a message of the account. Do nothing if it is gone."""
        ...

    async def remove_buttons(self, chat_id: str, message_id: str) -> None:
        """Remove the buttons of a message. Do nothing if it has none or is gone."""
        ...


class Account(Protocol):
    """The stored settings of an account. ``name`` is that of its channel.

    ``agent`` answers messages that continue no other conversation.
    """

    @property
    def name(self) -> str: ...

    @property
    def account_id(self) -> str:
        """Return what identifies the account at its service; a new token does not change it."""
        ...

    @property
    def place(self) -> str:
        """Return to what a position belongs, such as a folder; "" if it is the whole account."""
        ...

    @property
    def agent(self) -> str: ...

    def open(self) -> AbstractAsyncContextManager[Platform]:
        """Open a connection. Raise `InvalidInput` if the extra of the service is missing."""
        ...
