"""What was sent and what was answered beneath the protocol: the port of `http` and `stdio`.

The protocol's library tells a connection that broke by an error that a server may send as well. Of
the difference depends whether a call may be repeated, so it is looked up here: only an error whose
code really came is an answer.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from daybook.errors import InvalidInput
from daybook.http.request import MAX_BODY_BYTES

if TYPE_CHECKING:
    from mcp.client._transport import TransportStreams

LONGEST = 4 * MAX_BODY_BYTES
"""Bytes of one message; of what an answer of it says less is kept."""

CALL = "tools/call"
"""The request that has an effect."""


@dataclass(frozen=True)
class Fault:
    """Why there is no answer.

    ``refused`` says that trying again cannot help; ``undone`` that the other side told that it did
    not do it; ``retry_after`` is in seconds, None where it named none; ``raised`` is what is to be
    raised as it stands.
    """

    told: str
    refused: bool = False
    undone: bool = False
    retry_after: float | None = None
    raised: InvalidInput | None = None


class Wire(AbstractAsyncContextManager["TransportStreams"], Protocol):
    """One connection to a server; entered once. When it is left, nothing of it is.

    Calls are made one after the other. ``sent``: the last has left, or a part of it.
    """

    @property
    def sent(self) -> bool: ...

    def begin(self) -> None:
        """A call is about to be made: what became of the one before it is forgotten."""
        ...

    def gently(self) -> None:
        """The work is done: the server may end by itself."""
        ...

    def came(self, code: int) -> bool:
        """Whether an error of that code came since the last call was sent."""
        ...

    def fault(self) -> Fault | None:
        """What went wrong beneath the protocol, where anything did."""
        ...

    def explained(self, told: str) -> str:
        """``told``, and what else there is to say of the server."""
        ...
