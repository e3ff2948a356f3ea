"""The reasons for which a run waits, and what follows from each of them.

A waiting run waits until a time (`RunRow.until`) and for a reason (`RunRow.waits_for`, the name of
a `WaitReason`). Code asks the reason (``row.wait_reason.claims_early``), and queries ask with
`names`. No other code compares names of reasons, except that a module queries for the reason that
it sets itself.

To add a reason, add a `WaitReason` with its answers to `REASONS`, and write the code that ends the
wait; a wait until a time needs only `claim.wait` in its rule. `make docs` makes a table of
`docs/reference/states.md` from `REASONS`. No migration is needed, because the column is a text.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, kw_only=True)
class WaitReason:
    """A reason to wait: its ``name`` in the ledger, and the answers to the questions about it."""

    name: str
    what: str
    """What the run waits for, for the documentation."""
    ends: str
    """What ends the wait."""
    for_runs: bool = False
    """Whether the run waits for other runs.

    Then it claims repeatedly, so it is late from its due time on, and the text of its wait explains
    the delay.
    """
    claims_early: bool = False
    """Whether a claim before `until` is decided anew, because the wait may end at any time."""
    in_queue: bool = False
    """Whether the run is in a queue and begins when its turn comes; its overlap is decided."""
    for_slot: bool = False
    """Whether the run may get the next free slot."""
    of_worker: bool = False
    """Whether the cause is the run's own worker.

    Then the state of the workers explains the delay before the text of the wait does.
    """
    ends_with_run: bool = False
    """Whether the wait ends when the active run of the same job has ended."""
    ends_with_window: bool = False
    """Whether the wait of a run that is queued only at the end of a maintenance window ends with
    the window."""
    is_reservation: bool = False
    """Whether the row only reserves its due time, and nothing is decided about it."""
    undecided_after: timedelta | None = None
    """How long after `until` a due time can still be too late; None if it cannot be too late."""
    for_person: bool = False
    """Whether the run waits for a person's decision, with its attempt open."""
    holder_lost: bool = False
    """Whether the run's last holder was lost, so that it may have left its Prefect run running."""

    @property
    def survives_refusal(self) -> bool:
        """Return whether the wait stays what it is if Prefect refuses to create a run for it."""
        return self.is_reservation or self.for_person


UNTIL = WaitReason(
    name="",
    what="a time: of a retry, or of the next claim of a run whose budget or settings do not allow "
    "it to start",
    ends="the time",
)
LOST = WaitReason(
    name="lost",
    what="its next start, after its holder was lost",
    ends="the time",
    holder_lost=True,
)
DUE = WaitReason(
    name="due",
    what="its due time, reserved early",
    ends="the due time",
    is_reservation=True,
    undecided_after=timedelta(0),
)
STAGGER = WaitReason(
    name="stagger",
    what="its staggered time",
    ends="the time",
    undecided_after=timedelta(0),
)
MAINTENANCE = WaitReason(
    name="maintenance",
    what="the end of a maintenance window",
    ends="the end of the window, or its removal",
    ends_with_window=True,
)
SLOT = WaitReason(
    name="slot",
    what="a free slot",
    ends="a free slot, when the run is next",
    for_runs=True,
    claims_early=True,
    in_queue=True,
    for_slot=True,
)
WORKER = WaitReason(
    name="worker",
    what="room in its worker",
    ends="a worker with room",
    for_runs=True,
    claims_early=True,
    in_queue=True,
    for_slot=True,
    of_worker=True,
)
NO_WORKER = WaitReason(
    name="no_worker",
    what="a worker that may start it: with the label of its job, and not draining",
    ends="a claim by such a worker",
    for_runs=True,
    claims_early=True,
    in_queue=True,
)
OVERLAP = WaitReason(
    name="overlap",
    what="another run of its job",
    ends="the end of that run",
    for_runs=True,
    claims_early=True,
    in_queue=True,
    ends_with_run=True,
    ends_with_window=True,
)
HOLDER = WaitReason(
    name="holder",
    what="knowledge whether another run's process is alive",
    ends="a write of that process, or the end of its lease",
    for_runs=True,
    claims_early=True,
    ends_with_run=True,
    undecided_after=timedelta(minutes=5),
)
AGENT = WaitReason(
    name="agent",
    what="another run of its agent",
    ends="a claim below the agent's limit",
    for_runs=True,
)
LABEL = WaitReason(
    name="label",
    what="another run with the label of its job",
    ends="the end of such a run, or a claim below the label's limit",
    for_runs=True,
)
SESSION = WaitReason(
    name="session",
    what="another run of its session",
    ends="the end of such a run, for a message; for any other run, a claim in its turn",
    for_runs=True,
)
FOLDER = WaitReason(
    name="folder",
    what="another run in its folder",
    ends="a claim while no other run works in the folder",
    for_runs=True,
)
APPROVAL = WaitReason(
    name="approval",
    what="a person's decision about a call or an answer",
    ends="the decision, or its deadline",
    for_person=True,
)
PREFECT = WaitReason(
    name="prefect",
    what="a new try after Prefect refused to create its run",
    ends="the time of the next try",
)

REASONS = {
    each.name: each
    for each in (
        UNTIL,
        LOST,
        DUE,
        STAGGER,
        MAINTENANCE,
        SLOT,
        WORKER,
        NO_WORKER,
        OVERLAP,
        HOLDER,
        AGENT,
        LABEL,
        SESSION,
        FOLDER,
        APPROVAL,
        PREFECT,
    )
}
"""All reasons by their names."""


def of(name: str) -> WaitReason:
    """Return the reason with this name.

    During a rolling upgrade, a newer version may write a name that this version does not know. Such
    a run waits for its time.
    """
    return REASONS.get(name, UNTIL)


def names(matches: Callable[[WaitReason], bool]) -> tuple[str, ...]:
    """Return the names of the reasons for which ``matches`` is true, for a query."""
    return tuple(each.name for each in REASONS.values() if matches(each))


def as_markdown() -> str:
    """Return the table of reasons of `docs/reference/states.md`."""
    lines = ["| `waits_for` | the run waits for | the wait ends with |", "|---|---|---|"]
    for each in REASONS.values():
        name = f"`{each.name}`" if each.name else "*empty*"
        lines.append(f"| {name} | {each.what} | {each.ends} |")
    return "\n".join(lines) + "\n"
