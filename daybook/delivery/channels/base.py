"""The message, the channel interface, and the error of a failed delivery."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

from daybook.delivery.attachments import Attachment
from daybook.errors import DaybookError

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

    from daybook.resources.store import BlockStore

SEND_TIMEOUT_SECONDS = 30.0
"""Timeout for sending one message."""

UNBOUNDED = 1_000_000
"""Value of ``limit`` for a channel without a limit. No message in the ledger is this long."""


class NotDelivered(DaybookError):
    """A message did not arrive, or it is unknown whether it arrived.

    ``temporary`` is false if a retry cannot help. ``message`` contains no secret.
    """

    code = "not_delivered"

    def __init__(self, message: str, temporary: bool = True) -> None:
        self.temporary = temporary
        super().__init__(message)


class Postponed(DaybookError):
    """A message is not sent before the instant ``until``, and no attempt was made.

    Until then, its row waits in the ``queue``; ``message`` says why. The channel has stored this
    (`pending.postpone`).
    """

    code = "postponed"

    def __init__(self, message: str, until: datetime, queue: str) -> None:
        self.until, self.queue = until, queue
        super().__init__(message)


@dataclass(frozen=True)
class Message:
    """One message. ``body`` is the full text, which each channel truncates to its limit.

    With ``run_id`` and ``run_url``, the recipient can find the full text. ``id`` is the same in
    every attempt. ``note`` is on lines of its own after the body, and is not truncated.
    ``is_markdown`` says whether a channel may show the body as Markdown.
    """

    id: str
    event: str
    subject: str
    body: str
    chat_id: str
    at: datetime
    run_id: str | None = None
    run_url: str | None = None
    attachments: tuple[Attachment, ...] = ()
    note: str = ""
    is_markdown: bool = False


class Channel(Protocol):
    """A recipient of messages.

    ``limit`` is the maximum number of characters of a body. ``needs_chat_id`` is true if the
    channel cannot send without a chat id. ``carries_files`` is true if the service accepts a text
    and all its attachments in one request, so that a retry after a failure repeats neither.
    """

    limit: int
    needs_chat_id: bool
    carries_files: bool

    async def send(self, message: Message) -> None:
        """Send the message, or raise `NotDelivered` or `Postponed`.

        An implementation must not block the event loop, and must end within `SEND_TIMEOUT_SECONDS`.
        """
        ...


@dataclass(frozen=True)
class ChannelKind:
    """The channels whose settings are documents of ``store``.

    ``read`` returns the channel with a name. It raises `UnknownName`, and `InvalidInput` for
    invalid settings. ``check`` raises `InvalidInput` if a channel with a name cannot have these
    settings.
    """

    store: BlockStore[Any]
    read: Callable[[PrefectClient, str], Awaitable[Channel]]
    check: Callable[[PrefectClient, str, Any], Awaitable[None]] | None = None
