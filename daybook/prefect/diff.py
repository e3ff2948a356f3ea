"""The three-way comparison of one job: a pure function.

Field by field, with L the ledger's, B what both sides last agreed on, P Prefect's:

=====================  ==============================================================
L = P                  nothing
L = B, P differs       **pull**: it was edited in Prefect
L = B, P is foreign    **pull**: a schedule that no job can say stays Prefect's own, so the job is
                       on demand from then on; where it is so already, nothing
P = B, L differs       it was changed here: pushed, as all that differs after the pull
all differ             **conflict**: the ledger's version is pushed, the other one reported
no B (nobody knows     **conflict** in all that differs
what was agreed)
no P                   nothing to compare: it is made
=====================  ==============================================================
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from daybook.prefect.projection import Projection


@dataclass(frozen=True)
class Plan:
    """What is to be taken over, by field, and Prefect's losing values of what is not."""

    pull: tuple[str, ...] = ()
    conflicts: dict[str, Any] = field(default_factory=dict)


def plan(ours: Projection, base: dict[str, Any] | None, theirs: Projection | None) -> Plan:
    """Compare ``ours`` (ledger) with ``theirs`` (Prefect) by ``base``, the last agreement."""
    pull: list[str] = []
    conflicts: dict[str, Any] = {}
    if theirs is None:
        return Plan()
    observed, differ = theirs.as_dict(), differing(ours, theirs)
    for name, mine in ours.as_dict().items():
        if name not in differ:
            continue
        if base is not None and mine == base.get(name):
            pull.append(name)
        elif base is None or observed[name] != base.get(name):
            conflicts[name] = observed[name]
    return Plan(tuple(pull), conflicts)


def differing(ours: Projection, theirs: Projection | None) -> set[str]:
    """What Prefect is to be sent: all that differs, but for a schedule that is left to it."""
    if theirs is None:
        return set(ours.as_dict())
    observed = theirs.as_dict()
    return {
        name
        for name, mine in ours.as_dict().items()
        if observed[name] != mine and not _is_left(name, mine, observed[name])
    }


def _is_left(name: str, mine: Any, their: Any) -> bool:
    return name == "schedule" and not mine and "foreign" in their
