"""Three-way comparison of one job, as a pure function.

Each field is compared: L is its value in the ledger, P in Prefect, and B in the last reconciled
state (`daybook.prefect.links`).

=====================  ==============================================================
L = P                  nothing
L = B, P differs       **import**: it was edited in Prefect
L = B, P is foreign    **import**: a schedule that no job can express stays Prefect's own, and the
                       job becomes on demand; nothing if the job already is
P = B, L differs       it was changed in the ledger: sent, like all differences after the import
all differ             **conflict**: the ledger's value is sent, and Prefect's value is reported
no B (nothing was      **conflict** in all fields that differ
reconciled yet)
no P                   nothing to compare: the deployment is created
=====================  ==============================================================
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from daybook.prefect.projection import Projection


@dataclass(frozen=True)
class Difference:
    """Fields to import (``pull``), and Prefect's losing values of the fields in conflict."""

    pull: tuple[str, ...] = ()
    conflicts: dict[str, Any] = field(default_factory=dict)


def compare(ours: Projection, base: dict[str, Any] | None, theirs: Projection | None) -> Difference:
    """Compare ``ours`` (ledger), ``theirs`` (Prefect) and ``base``, the last reconciled state."""
    pull: list[str] = []
    conflicts: dict[str, Any] = {}
    if theirs is None:
        return Difference()
    observed, differ = theirs.as_dict(), differing_fields(ours, theirs)
    for name, value in ours.as_dict().items():
        if name not in differ:
            continue
        if base is not None and value == base.get(name):
            pull.append(name)
        elif base is None or observed[name] != base.get(name):
            conflicts[name] = observed[name]
    return Difference(tuple(pull), conflicts)


def differing_fields(ours: Projection, theirs: Projection | None) -> set[str]:
    """Return the fields to send to Prefect: all that differ, except a schedule left to Prefect.

    Without ``theirs``, these are all fields.
    """
    if theirs is None:
        return set(ours.as_dict())
    observed = theirs.as_dict()
    differ = {name for name, value in ours.as_dict().items() if observed[name] != value}
    if not ours.schedule and "foreign" in theirs.schedule:
        differ.discard("schedule")
    return differ
