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

Of a description, only the user's part is compared: the job's summary before it follows from other
fields, and is sent whenever it differs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from daybook.prefect.projection import Projection
from daybook.prefect.summary import without_summary


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
    for name in ours.as_dict():
        if name not in differ:
            continue
        local, last, there = (_of_user(each, name) for each in (ours.as_dict(), base, observed))
        if name == "description" and local == there:
            continue
        if base is not None and local == last:
            pull.append(name)
        elif base is None or there != last:
            conflicts[name] = observed[name]
    return Difference(tuple(pull), conflicts)


def _of_user(fields: dict[str, Any] | None, name: str) -> Any:
    """Return the value of a field, of a description only the user's part; None if it is missing."""
    value = (fields or {}).get(name)
    if name == "description" and value is not None:
        return without_summary(value)
    return value


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
