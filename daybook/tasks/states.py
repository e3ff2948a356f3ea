"""States of a task run and the transitions between them. `daybook.tasks` has the diagram.

`check` raises `IllegalTransition` for a transition that `TRANSITIONS` does not list. Every
operation checks the state of its run first, so this error means a bug in an operation.

To add a state, add a member to `Status`, add it to `LIVE` if it is not an outcome, and list its
transitions here. `counts` and `views.TaskTotals` count the live states, and `queue.list_tasks`
orders them.
"""

from __future__ import annotations

from enum import StrEnum

from daybook.errors import IllegalTransition


class Status(StrEnum):
    """State of a task run, as in `task_runs.status`. The three live states come first."""

    QUEUED = "queued"
    CLAIMED = "claimed"
    NEEDS_ATTENTION = "needs_attention"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


LIVE = frozenset({Status.QUEUED, Status.CLAIMED, Status.NEEDS_ATTENTION})
ENDED = frozenset(Status) - LIVE
RETRYABLE = frozenset({Status.FAILED, Status.CANCELLED, Status.NEEDS_ATTENTION})
"""States of a task's newest run in which the operator may request another run."""

MAX_EXPIRIES = 3
"""Number of lease expiries after which a run needs attention. Then no session can claim it."""

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
    """Raise `IllegalTransition` unless `TRANSITIONS` has a transition from ``old`` to ``new``."""
    if new not in TRANSITIONS.get(old, {}):
        raise IllegalTransition(run, old, new)
