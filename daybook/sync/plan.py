"""The three-way comparison of one job: a pure function.

Field by field, with L the ledger's, B what both sides last agreed on, P Prefect's:

=====================  ==============================================================
L = P                  nothing
L = B, P differs       **pull**: it was edited in Prefect
L = B, P is foreign    **pull**: a schedule that no job can say stays Prefect's own, so the job is
                       on demand from then on; **leave** it where it is so already
P = B, L differs       **push**: it was changed here
all differ             **conflict**: the ledger's version is pushed, the other one reported
no B (nobody knows     **conflict** in all that differs
what was agreed)
no P                   **create**
=====================  ==============================================================
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from daybook.sync.projection import Projection


@dataclass(frozen=True)
class Plan:
    """What is to be done for one job. ``conflicts`` holds Prefect's losing values by field."""

    create: bool = False
    push: tuple[str, ...] = ()
    pull: tuple[str, ...] = ()
    leave: tuple[str, ...] = ()
    conflicts: dict[str, Any] = field(default_factory=dict)

    @property
    def writes(self) -> bool:
        """Whether something is sent to Prefect."""
        return self.create or bool(self.push)


def plan(ours: Projection, base: dict[str, Any] | None, theirs: Projection | None) -> Plan:
    """Compare ``ours`` (ledger) with ``theirs`` (Prefect) by ``base``, the last agreement."""
    if theirs is None:
        return Plan(create=True)
    push: list[str] = []
    pull: list[str] = []
    leave: list[str] = []
    conflicts: dict[str, Any] = {}
    observed = theirs.as_dict()
    for name, mine in ours.as_dict().items():
        their = observed[name]
        if mine == their:
            continue
        if base is None:
            if _is_left(name, mine, their):
                leave.append(name)
            else:
                push.append(name)
                conflicts[name] = their
        elif mine == base.get(name):
            (leave if _is_left(name, mine, their) else pull).append(name)
        else:
            push.append(name)
            if their != base.get(name):
                conflicts[name] = their
    return Plan(False, tuple(push), tuple(pull), tuple(leave), conflicts)


def _is_left(name: str, mine: Any, their: Any) -> bool:
    return name == "schedule" and not mine and "foreign" in their


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
