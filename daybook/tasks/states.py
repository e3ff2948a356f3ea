"""States of a task run and the transitions between them; `daybook.tasks` has the diagram.

A transition that `TRANSITIONS` does not list raises `IllegalTransition`. Every operation checks
the state of its run first, so this error means that an operation is wrong.
"""

from __future__ import annotations

from enum import StrEnum

from daybook.errors import IllegalTransition


class Status(StrEnum):
    """State of a task run: `task_runs.status`. The three live ones come first."""

    QUEUED = "queued"
    CLAIMED = "claimed"
    NEEDS_ATTENTION = "needs_attention"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


LIVE = frozenset({Status.QUEUED, Status.CLAIMED, Status.NEEDS_ATTENTION})
ENDED = frozenset(Status) - LIVE
RETRYABLE = frozenset({Status.FAILED, Status.CANCELLED, Status.NEEDS_ATTENTION})
"""States after which another run of the task may be requested."""

MAX_EXPIRIES = 3
"""Number of lease expiries after which no session can claim the run any more."""

TRANSITIONS: dict[Status, dict[Status, str]] = {
    Status.QUEUED: {
        Status.CLAIMED: "claimed by a session",
        Status.CANCELLED: "cancelled by the operator",
    },
    Status.CLAIMED: {
        Status.QUEUED: "released, its lease expired, or recovered",
        Status.COMPLETED: "completed with the claim's token",
        Status.FAILED: "failed with the claim's token",
        Status.NEEDS_ATTENTION: f"its lease expired for the {MAX_EXPIRIES}rd time",
        Status.CANCELLED: "cancelled by the operator",
    },
    Status.NEEDS_ATTENTION: {
        Status.QUEUED: "recovered by the operator",
        Status.CANCELLED: "cancelled, or retried, by the operator",
    },
}


def check(run: str, old: Status, new: Status) -> None:
    """Raise `IllegalTransition` unless `TRANSITIONS` leads from ``old`` to ``new``."""
    if new not in TRANSITIONS.get(old, {}):
        raise IllegalTransition(run, old, new)
