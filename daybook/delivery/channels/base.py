"""What is sent, the port that sends it, and the one way in which that fails."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from daybook.errors import DaybookError

WITHIN = 30.0
"""Seconds that one message may take."""

UNBOUNDED = 1_000_000
"""The limit of a channel that takes what there is: more than the ledger keeps of a message."""


class NotDelivered(DaybookError):
    """A message did not arrive, or nobody knows that it did.

    ``temporary`` is False where trying again cannot help. No secret stands in ``message``.
    """

    code = "not_delivered"

    def __init__(self, message: str, temporary: bool = True) -> None:
        self.temporary = temporary
        super().__init__(message)


@dataclass(frozen=True)
class Message:
    """One message; ``body`` is the whole of it, and each channel cuts what it cannot take.

    ``run_id`` and ``run_url`` are where the whole can be read; ``id`` is the same on every try.
    """

    id: str
    event: str
    subject: str
    body: str
    chat_id: str
    at: datetime
    run_id: str | None = None
    run_url: str | None = None


class Channel(Protocol):
    """Where messages go.

    ``limit`` is how many characters of a body it takes, ``needs_chat_id`` whether it cannot send
    without one.
    """

    limit: int
    needs_chat_id: bool

    async def send(self, message: Message) -> None:
        """Send it, or raise `NotDelivered`; blocks no event loop, and ends within `WITHIN`."""
        ...
