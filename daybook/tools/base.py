"""Types of tools and servers, and the result of a call."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from daybook.errors import ToolUnreachable
from daybook.ledger.states import Outcome

__all__ = ["PYTHON", "CallResult", "ToolInfo", "ToolUnreachable"]

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
