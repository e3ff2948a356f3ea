"""Types of tools and servers, and the result of a call."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from daybook.errors import ToolUnreachable
from daybook.ledger.states import Outcome

if TYPE_CHECKING:
    from daybook.http.secrets import SecretStore
    from daybook.tools.server_blocks import ToolServerSettings

__all__ = ["PYTHON", "CallResult", "ToolInfo", "ToolServer", "ToolServers", "ToolUnreachable"]

PYTHON = "python"
"""The source of tools that are Python functions."""


@dataclass(frozen=True)
class ToolInfo:
    """A tool. ``name`` is what a job writes; ``schema`` is the JSON schema of its params.

    ``source`` is `PYTHON`, the name of a saved server, or the address of one.
    """

    name: str
    description: str
    schema: dict[str, Any] = field(hash=False)
    source: str


@dataclass(frozen=True)
class CallResult:
    """The result of a call. ``temporary``: the call may be tried again; ``retry_after`` is in
    seconds, None if the server gave no delay.
    """

    outcome: Outcome
    temporary: bool = False
    retry_after: float | None = None


@dataclass(frozen=True)
class ToolServer:
    """A saved server."""

    name: str
    settings: ToolServerSettings


class ToolServers(Protocol):
    """Storage of saved servers. ``secrets`` resolves the references in their headers."""

    @property
    def secrets(self) -> SecretStore: ...

    async def names(self) -> list[str]:
        """Return all names, sorted."""
        ...

    async def read(self, name: str) -> ToolServer:
        """Return the server; raises `UnknownName`, and `InvalidInput` for invalid settings."""
        ...
