"""The states of a run and the legal transitions (`docs/promise.md`, "The states").

::

            ┌──────────── waiting(until, why) ◄────────────┐
            │                  │                           │ lease lost before the effect ·
            │                  │                           │ attempts left · on_lost: rerun
     none ──┼──────────────►   ▼                           │
            │               claimed(fence) ──begin──► running(fence) ──finish──► succeeded failed
            │                                              │                     timed_out cancelled
            │                                              └─ lease lost ─► unknown ─► (late outcome
            └──► skipped(why) · missed(why)                                   of the last fence)

The live states are waiting, claimed and running. A transition that is not in `TRANSITIONS` raises
`IllegalTransition`; `None` stands for "no row yet".
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from daybook.errors import IllegalTransition
from daybook.ledger import texts


class Status(StrEnum):
    """The state of a run. The three live ones come first."""

    WAITING = "waiting"
    CLAIMED = "claimed"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"
    MISSED = "missed"
    UNKNOWN = "unknown"


class Delivery(StrEnum):
    """The delivery status of a run's callbacks and messages, independent of the run's own state.

    An outbox row is pending, delivered or failed. For a run with several rows, failed takes
    precedence over pending, and pending over delivered.
    """

    NOT_REQUESTED = "not_requested"
    SUPPRESSED = "suppressed"
    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"


LIVE = frozenset({Status.WAITING, Status.CLAIMED, Status.RUNNING})
TERMINAL = frozenset(Status) - LIVE
FAILURES = frozenset({Status.FAILED, Status.TIMED_OUT, Status.UNKNOWN})
"""The outcomes that count as failures, for pausing a job and for notifications."""
HELD = frozenset({Status.CLAIMED, Status.RUNNING})
"""The states in which a process holds the run by a lease and a fence."""

_W, _C, _R = Status.WAITING, Status.CLAIMED, Status.RUNNING
_OUTCOMES = {
    Status.SUCCEEDED: "the effect happened",
    Status.FAILED: "the attempt failed, and no retry is left",
    Status.TIMED_OUT: "the attempt timed out, and no retry is left",
    Status.CANCELLED: "cancelled while running; the process group is gone",
}

TRANSITIONS: dict[Status | None, dict[Status, str]] = {
    None: {
        _W: "requested, or it has to wait",
        _C: "granted at claim",
        Status.SKIPPED: "refused at claim",
        Status.MISSED: "too late at claim, or found by the audit",
        Status.CANCELLED: "a future run was cancelled",
        Status.FAILED: "invalid parameters",
    },
    _W: {
        _C: "granted at claim",
        Status.SKIPPED: "refused at claim",
        Status.MISSED: "made ahead of its due time, or left undecided, and not claimed in time",
        Status.CANCELLED: "cancelled while waiting",
        Status.TIMED_OUT: "the deadline passed while it waited",
    },
    _C: {
        _R: "begin: written immediately before the effect",
        _W: "the lease was lost before the effect, or the holder has to wait",
        Status.SKIPPED: "its check said skip",
        Status.CANCELLED: "cancelled before the effect",
        Status.FAILED: "invalid parameters or schema, a failed check, or a limit",
        Status.TIMED_OUT: "the deadline passed before the effect",
    },
    _R: {
        **_OUTCOMES,
        _W: "attempts are left, or the job says on_lost: rerun",
        Status.UNKNOWN: "the lease was lost after begin: the effect cannot be known",
    },
    Status.UNKNOWN: {
        status: f"late outcome of the last fence: {why}" for status, why in _OUTCOMES.items()
    },
}


def check_transition(run: str, old: Status | None, new: Status) -> None:
    """Raise `IllegalTransition` unless ``TRANSITIONS`` joins ``old`` to ``new``."""
    if new not in TRANSITIONS.get(old, {}):
        raise IllegalTransition(run, old or "none", new)


def as_markdown() -> str:
    """Return the table of `docs/concepts/states.md`."""
    lines = ["| from | to | when |", "|---|---|---|"]
    lines += [
        f"| {old or '*none*'} | {new} | {why} |"
        for old, row in TRANSITIONS.items()
        for new, why in row.items()
    ]
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Outcome:
    """How a run ended. ``output`` is the full text; the ledger stores it cut and marked.

    ``usage`` is what its last attempt took; it is added to the usage of earlier attempts. A
    ``reason`` equal to the ``error`` is left out.

    ``prompt`` is what the agent was actually asked. If it is given and the run succeeded, prompt
    and answer are appended to the run's session.
    """

    status: Status
    reason: str = ""
    output: str | None = None
    result: Any = None
    error: str | None = None
    agent: str | None = None
    model: str | None = None
    usage: dict[str, Any] | None = None
    prompt: str | None = None

    def __post_init__(self) -> None:
        for name in ("reason", "output", "result", "error", "model", "prompt"):
            object.__setattr__(self, name, texts.sanitize(getattr(self, name)))
        if self.reason == self.error:
            object.__setattr__(self, "reason", "")
