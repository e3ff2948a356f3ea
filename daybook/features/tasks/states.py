"""States of a task run and the transitions between them. `daybook.features.tasks` has the diagram.

`check` raises `IllegalTransition` for a transition that `TRANSITIONS` does not list. Every
operation checks the state of its run first, so this error means a bug in an operation.

To add a state, add a member to `TaskRunStatus`, add it to `LIVE` if it is not an outcome, and list
its transitions here. `counts` and `views.TaskTotals` count the live states, and `queue.list_tasks`
orders them.
"""

from __future__ import annotations

from enum import StrEnum

from daybook.errors import IllegalTransition


class TaskRunStatus(StrEnum):
    """State of a task run, as in `task_runs.status`. The three live states come first."""

    QUEUED = "queued"
    CLAIMED = "claimed"
    NEEDS_ATTENTION = "needs_attention"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


LIVE = frozenset({TaskRunStatus.QUEUED, TaskRunStatus.CLAIMED, TaskRunStatus.NEEDS_ATTENTION})
ENDED = frozenset(TaskRunStatus) - LIVE
RETRYABLE = frozenset(
    {TaskRunStatus.FAILED, TaskRunStatus.CANCELLED, TaskRunStatus.NEEDS_ATTENTION}
)
"""States of a task's newest run in which the operator may request another run."""

MAX_EXPIRIES = 3
"""Number of lease expiries after which a run needs attention. Then no session can claim it."""

TRANSITIONS: dict[TaskRunStatus, dict[TaskRunStatus, str]] = {
    TaskRunStatus.QUEUED: {
        TaskRunStatus.CLAIMED: "claimed by a session",
        TaskRunStatus.CANCELLED: "cancelled by the operator",
    },
    TaskRunStatus.CLAIMED: {
        TaskRunStatus.QUEUED: "released, its lease expired, or recovered",
        TaskRunStatus.COMPLETED: "completed with the claim's token",
        TaskRunStatus.FAILED: "failed with the claim's token",
        TaskRunStatus.NEEDS_ATTENTION: f"its lease expired for the {MAX_EXPIRIES}rd time",
        TaskRunStatus.CANCELLED: "cancelled by the operator",
    },
    TaskRunStatus.NEEDS_ATTENTION: {
        TaskRunStatus.QUEUED: "recovered by the operator",
        TaskRunStatus.CANCELLED: "cancelled, or retried, by the operator",
    },
}


def check(run: str, old: TaskRunStatus, new: TaskRunStatus) -> None:
    """Raise `IllegalTransition` unless `TRANSITIONS` has a transition from ``old`` to ``new``."""
    if new not in TRANSITIONS.get(old, {}):
        raise IllegalTransition(run, old, new)
