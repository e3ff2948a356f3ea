"""Interface of `http` and `stdio`. A wire records whether a call was sent and answered.

If a connection breaks, the `mcp` library reports an error code, but a server may send the same
code. Whether a call may be repeated depends on the sender of the code. So a wire also records the
codes that it receives, below the protocol. An error counts as an answer only if its code was
received.
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
"""Maximum length of one message in bytes. The limit for a stored answer is lower."""

CALL_METHOD = "tools/call"
"""MCP method of the only request that has an effect."""


@dataclass(frozen=True)
class Fault:
    """The reason why a request got no answer.

    ``refused`` is true if a retry cannot help. ``status`` is the HTTP status of the server's error
    (400 or more); a call with such a status counts as not done. ``retry_after`` is in seconds; None
    if the server gave no delay. ``raised`` is an error that the caller should raise unchanged.
    """

    message: str
    refused: bool = False
    status: int | None = None
    retry_after: float | None = None
    raised: InvalidInput | None = None


class Wire(AbstractAsyncContextManager["TransportStreams"], Protocol):
    """Connection to a server, which can be entered once. The end of the context closes everything.

    The caller makes one call at a time. ``sent`` is True if the last call was sent, at least in
    part.
    """

    @property
    def sent(self) -> bool: ...

    def begin(self) -> None:
        """Delete the result of the previous call, because another call is about to start."""
        ...

    def allow_exit(self) -> None:
        """Mark the work as done, so that the server may exit by itself."""
        ...

    def came(self, code: int) -> bool:
        """Return whether an error with this code has arrived since the last call was sent."""
        ...

    def fault(self) -> Fault | None:
        """Return the fault below the protocol. Return None if there was no fault."""
        ...

    def explained(self, message: str) -> str:
        """Return ``message`` with details about the server, such as its standard error."""
        ...
