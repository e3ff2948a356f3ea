"""The states of a run and the legal transitions (`docs/promise.md`, "The states").

::

            ┌──────────── waiting(until, why) ◄────────────┐
            │                  │                           │ lease lost before the effect ·
            │                  │                           │ attempts left · on_lost: rerun ·
            │                  │                           │ a person has to approve a call
     none ──┼──────────────►   ▼                           │
            │               claimed(fence) ──begin──► running(fence) ──finish──► succeeded failed
            │                                              │                     timed_out cancelled
            │                                              └─ lease lost ─► unknown ─► (late outcome
            └──► skipped(why) · missed(why)                                   of the last fence)

The live states are waiting, claimed and running. The diagram leaves out some ends before the
effect; `TRANSITIONS` has all transitions. A transition that is not in `TRANSITIONS` raises
`IllegalTransition`; `None` stands for "no row yet".

To add a state, add a member to `Status` and its transitions to `TRANSITIONS`, from which
`make docs` makes the table of `docs/reference/states.md`. A live state also belongs in `LIVE`, and
in `HELD` if a process holds the run. Every other state is an outcome, which `runs.outcomes.record`
writes. An outcome needs:

- a Prefect state in `prefect.states`
- a colour in `cli.output`
- an entry in `FAILURES`, if it counts as a failure
- an entry in `delivery.outbox.OUTCOME_EVENTS`, if it causes callbacks and messages

No migration is needed, because the column is a text.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from daybook.errors import IllegalTransition
from daybook.ledger import texts


class Status(StrEnum):
    """The state of a run. The three live states come first."""

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

    An outbox row is pending, delivered, failed, or suppressed (withdrawn). For a run with several
    rows, failed takes precedence over pending, pending over delivered, and delivered over
    suppressed.
    """

    NOT_REQUESTED = "not_requested"
    SUPPRESSED = "suppressed"
    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"


LIVE = frozenset({Status.WAITING, Status.CLAIMED, Status.RUNNING})
TERMINAL = frozenset(Status) - LIVE
FAILURES = frozenset({Status.FAILED, Status.TIMED_OUT, Status.UNKNOWN})
"""The outcomes that count as failures, which can pause a job and cause notifications."""
HELD = frozenset({Status.CLAIMED, Status.RUNNING})
"""The states in which a process holds the run, with a lease and a fencing token."""

_W, _C, _R = Status.WAITING, Status.CLAIMED, Status.RUNNING
_OUTCOMES = {
    Status.SUCCEEDED: "the effect happened",
    Status.FAILED: "the attempt failed, and no retry is left",
    Status.TIMED_OUT: "the attempt timed out, and no retry is left",
    Status.CANCELLED: "cancelled while running; the process group has exited",
}

TRANSITIONS: dict[Status | None, dict[Status, str]] = {
    None: {
        _W: "requested, or it has to wait",
        _C: "granted at claim",
        Status.SKIPPED: "refused at claim or by the audit, or ended in Prefect before its claim",
        Status.MISSED: "too late at claim, or found by the audit",
        Status.CANCELLED: "cancelled in Prefect before its claim",
        Status.FAILED: "invalid parameters, or failed in Prefect before its claim",
    },
    _W: {
        _C: "granted at claim",
        Status.SKIPPED: "refused at claim, replaced by a later run, its job was removed, or set to "
        "Completed in Prefect",
        Status.MISSED: "created ahead of its due time, or left undecided, and not claimed in time; "
        "or it may have run before the ledger was restored from a backup",
        Status.CANCELLED: "cancelled while waiting",
        Status.TIMED_OUT: "the deadline passed while it waited",
    },
    _C: {
        _R: "begin: written immediately before the effect",
        _W: "the lease was lost before the effect, or the holder has to wait",
        Status.SKIPPED: "its check decided to skip it, or it was set to Completed in Prefect",
        Status.CANCELLED: "cancelled before the effect",
        Status.FAILED: "invalid parameters, a failed check, a limit, or a failure in Prefect",
        Status.TIMED_OUT: "the deadline passed before the effect",
    },
    _R: {
        **_OUTCOMES,
        _W: "attempts are left, a person has to approve a call, or the job has on_lost: rerun",
        Status.UNKNOWN: "the lease was lost after begin: the effect cannot be known",
    },
    Status.UNKNOWN: dict.fromkeys(_OUTCOMES, "late outcome with the last fencing token"),
}


def check_transition(run: str, old: Status | None, new: Status) -> None:
    """Raise `IllegalTransition` unless `TRANSITIONS` allows the step from ``old`` to ``new``."""
    if new not in TRANSITIONS.get(old, {}):
        raise IllegalTransition(run, old or "none", new)


def as_markdown() -> str:
    """Return the table of `docs/reference/states.md`; transitions for the same reason are a row."""
    lines = ["| from | to | when |", "|---|---|---|"]
    for old, row in TRANSITIONS.items():
        for why in dict.fromkeys(row.values()):
            new = ", ".join(status for status, each in row.items() if each == why)
            lines.append(f"| {old or '*none*'} | {new} | {why} |")
    return "\n".join(lines) + "\n"


Usage = dict[str, Any]
"""The usage of a model, as a JSON object with these keys:

- ``requests``
- ``input_tokens``, ``output_tokens``: None if the provider reported none
- ``cache_read_tokens``, ``cache_write_tokens``: parts of the input tokens, omitted when 0
- ``tool_calls``: omitted when 0
- ``cost_usd``: in US dollars; None if the price is not known

A program that answers for an agent may report more keys (`daybook.runs.usage`).
"""


@dataclass(frozen=True)
class Outcome:
    """The end of a run. ``output`` is the full text, which the ledger shortens if it is long.

    ``usage`` is the usage of the last attempt; the ledger adds it to the usage of earlier attempts.
    A ``reason`` equal to the ``error`` is left out.

    ``warnings`` describe the tool calls that failed in a run that succeeded, and what its agent's
    answer lacks, such as a possible usage.

    ``prompt`` is the text that the agent actually got. If there is a prompt and the run succeeded,
    the ledger appends the prompt and the answer to the run's session.
    """

    status: Status
    reason: str = ""
    output: str | None = None
    result: Any = None
    error: str | None = None
    agent: str | None = None
    model: str | None = None
    usage: Usage | None = None
    prompt: str | None = None
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "warnings", tuple(map(texts.sanitize, self.warnings)))
        for name in ("reason", "output", "result", "error", "model", "prompt"):
            object.__setattr__(self, name, texts.sanitize(getattr(self, name)))
        if self.reason == self.error:
            object.__setattr__(self, "reason", "")
