"""The states of a task run and the steps between them; drawn in `daybook.tasks`.

A step that `STEPS` does not hold is refused with `IllegalTransition`: each act looks first whether
its run stands where it may be begun, so that one is raised says that an act is wrong.
"""

from __future__ import annotations

from enum import StrEnum

from daybook.errors import IllegalTransition


class Status(StrEnum):
    """What a task run is: `task_runs.status`. The three live ones first."""

    QUEUED = "queued"
    CLAIMED = "claimed"
    NEEDS_ATTENTION = "needs_attention"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


LIVE = frozenset({Status.QUEUED, Status.CLAIMED, Status.NEEDS_ATTENTION})
ENDED = frozenset(Status) - LIVE
RETRIED = frozenset({Status.FAILED, Status.CANCELLED, Status.NEEDS_ATTENTION})
"""After these another run of the task may be asked for."""

MOST_EXPIRIES = 3
"""How often a lease of one run is over before nobody may claim it any more (requirement 48)."""

STEPS: dict[Status, dict[Status, str]] = {
    Status.QUEUED: {
        Status.CLAIMED: "claimed by a session",
        Status.CANCELLED: "cancelled by the operator",
    },
    Status.CLAIMED: {
        Status.QUEUED: "released, its lease is over, or recovered",
        Status.COMPLETED: "completed with the claim's token",
        Status.FAILED: "failed with the claim's token",
        Status.NEEDS_ATTENTION: f"its lease is over for the {MOST_EXPIRIES}rd time",
        Status.CANCELLED: "cancelled by the operator",
    },
    Status.NEEDS_ATTENTION: {
        Status.QUEUED: "recovered by the operator",
        Status.CANCELLED: "cancelled, or retried, by the operator",
    },
}


def check(run: str, old: Status, new: Status) -> None:
    """Raise `IllegalTransition` unless `STEPS` joins ``old`` to ``new``."""
    if new not in STEPS.get(old, {}):
        raise IllegalTransition(run, old, new)
