"""The port of `http` and `stdio`: tracks, below the protocol, what was sent and what was answered.

The protocol's library reports a broken connection with an error that a server may send as well. The
difference decides whether a call may be repeated, so it is determined here: an error counts as an
answer only if its code was received.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from daybook.errors import InvalidInput
from daybook.http.request import MAX_BODY_BYTES

if TYPE_CHECKING:
    from mcp.client._transport import TransportStreams

MAX_MESSAGE_BYTES = 4 * MAX_BODY_BYTES
"""Limit of one message in bytes; the part of an answer that is stored is smaller."""

CALL_METHOD = "tools/call"
"""The method of the request that has an effect."""


@dataclass(frozen=True)
class Fault:
    """The reason why there is no answer.

    ``refused``: trying again cannot help; ``undone``: the server reported that it did not do it;
    ``retry_after`` is in seconds, None if it gave no delay; ``raised`` is an error to raise
    unchanged.
    """

    message: str
    refused: bool = False
    undone: bool = False
    retry_after: float | None = None
    raised: InvalidInput | None = None


class Wire(AbstractAsyncContextManager["TransportStreams"], Protocol):
    """One connection to a server; entered once. When the context exits, everything is closed.

    Calls are made one after the other. ``sent``: the last call was sent, at least in part.
    """

    @property
    def sent(self) -> bool: ...

    def begin(self) -> None:
        """Forget the result of the previous call: another is about to be made."""
        ...

    def gently(self) -> None:
        """Mark the work as done: the server may exit by itself."""
        ...

    def came(self, code: int) -> bool:
        """Return whether an error of that code was received since the last call was sent."""
        ...

    def fault(self) -> Fault | None:
        """Return what went wrong below the protocol, if anything did."""
        ...

    def explained(self, message: str) -> str:
        """Return ``message`` with further details about the server."""
        ...
