"""Description of a tool, and the result of a call."""

from __future__ import annotations

from dataclasses import dataclass, field

from daybook.errors import ToolUnreachable
from daybook.json_text import JsonObject
from daybook.ledger.states import Outcome

__all__ = ["PYTHON", "CallResult", "ToolInfo", "ToolUnreachable"]

PYTHON = "python"
"""The source of tools that are Python functions."""


@dataclass(frozen=True)
class ToolInfo:
    """Description of a tool.

    ``name`` is the tool's name in a job. ``schema`` is the JSON schema of its params. ``source`` is
    `PYTHON`, the name of a saved server, or the address of a server. ``idempotent`` is True for a
    Python tool if a second equal call has no further effect.
    """

    name: str
    description: str
    schema: JsonObject = field(hash=False)
    source: str
    idempotent: bool = False


@dataclass(frozen=True)
class CallResult:
    """Result of a call.

    If ``temporary``, the call may be retried. ``retry_after`` is the delay in seconds before a
    retry; None if the server gave none.
    """

    outcome: Outcome
    temporary: bool = False
    retry_after: float | None = None
