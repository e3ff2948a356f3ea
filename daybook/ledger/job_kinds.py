"""Kinds of jobs, as far as the rows of their runs answer for them."""

from __future__ import annotations

ASK_AGENTS = ("agent-prompt", "heartbeat")
"""Kinds whose runs ask an agent and continue a session; their actions have the field `session`."""


def asks_agent(kind: str) -> bool:
    """Return whether a run of this kind asks an agent; False for an unknown kind."""
    return kind in ASK_AGENTS
