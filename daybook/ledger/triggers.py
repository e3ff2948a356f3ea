"""The triggers of runs: what started a run, and what follows from it.

Code asks the trigger of a row (``row.started_by.by_event``), and queries ask with `names`. No other
code compares names of triggers, except that a module queries for the trigger that it sets itself.
A trigger that is not in `TRIGGERS`, such as the name of a future caller, is a request of a person.

To add a trigger with other answers, add a `Trigger` to `TRIGGERS`. No migration is needed, because
the column is a text.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Trigger:
    """What started a run: its ``name`` in the ledger, and the answers to the questions about it."""

    name: str
    by_schedule: bool = False
    """Whether a schedule started the run."""
    by_event: bool = False
    """Whether the run follows another job's outcome, or a request to a hook.

    No later due time replaces such a run if it is skipped.
    """
    is_backfill: bool = False
    """Whether a person requested the run for a due time in the past."""
    is_direct: bool = False
    """Whether a program called the flow, which claims for itself and does not wait."""

    @property
    def is_automatic(self) -> bool:
        """Return whether no person and no program requested the run."""
        return self.by_schedule or self.by_event

    @property
    def has_due_time(self) -> bool:
        """Return whether the run's time is a due time, and not the time of a request."""
        return self.by_schedule or self.is_backfill

    def __str__(self) -> str:
        return "by hand" if self is MANUAL else self.name.replace("_", " ")


SCHEDULE = Trigger(name="schedule", by_schedule=True)
CATCH_UP = Trigger(name="catch_up", by_schedule=True)
AFTER = Trigger(name="after", by_schedule=True, by_event=True)
HOOK = Trigger(name="hook", by_event=True)
BACKFILL = Trigger(name="backfill", is_backfill=True)
MANUAL = Trigger(name="manual")
DIRECT = Trigger(name="direct", is_direct=True)
SESSION = Trigger(name="session")
"""A person writes to an agent: the message continues a session, or starts one."""
RETRY = Trigger(name="retry")
IMPORTED = Trigger(name="imported")

TRIGGERS = {
    each.name: each
    for each in (
        *(SCHEDULE, CATCH_UP, AFTER, HOOK, BACKFILL),
        *(MANUAL, DIRECT, SESSION, RETRY, IMPORTED),
    )
}


def of(name: str) -> Trigger:
    """Return the trigger with this name."""
    return TRIGGERS.get(name) or Trigger(name=name)


def names(matches: Callable[[Trigger], bool]) -> tuple[str, ...]:
    """Return the names of the triggers for which ``matches`` is true, for a query."""
    return tuple(each.name for each in TRIGGERS.values() if matches(each))
