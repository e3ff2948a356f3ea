"""What a tool is, and what came of calling one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from daybook.errors import ToolUnreachable
from daybook.ledger.states import Outcome

if TYPE_CHECKING:
    from daybook.http.secrets import SecretStore
    from daybook.tools.server_blocks import ToolServerSettings

__all__ = ["PYTHON", "Called", "Server", "Servers", "ToolInfo", "ToolUnreachable"]

PYTHON = "python"
"""The source of tools that are Python functions."""


@dataclass(frozen=True)
class ToolInfo:
    """A tool. ``name`` is what a job writes; ``schema`` the JSON schema of its params.

    ``source`` is `PYTHON`, the name of a saved server, or the address of one.
    """

    name: str
    description: str
    schema: dict[str, Any] = field(hash=False)
    source: str


@dataclass(frozen=True)
class Called:
    """How it went. ``temporary``: it may be tried again; ``retry_after`` is in seconds, None where
    the other side named none.
    """

    outcome: Outcome
    temporary: bool = False
    retry_after: float | None = None


@dataclass(frozen=True)
class Server:
    """A saved server."""

    name: str
    settings: ToolServerSettings


class Servers(Protocol):
    """Where servers are kept. ``secrets`` are what their headers refer to."""

    @property
    def secrets(self) -> SecretStore: ...

    async def names(self) -> list[str]:
        """The names of all, sorted."""
        ...

    async def read(self, name: str) -> Server:
        """The server of that name; raises `UnknownName`, and `InvalidInput` for its settings."""
        ...
