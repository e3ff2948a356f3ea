"""Three-way comparison of one job, as a pure function.

For each field, L is the value in the ledger, P the value in Prefect, and B the value in the last
reconciled state (`daybook.prefect.links`).

=====================  ==============================================================
L = P                  nothing
L = B, P differs       **import**: the value was edited in Prefect
L = B, P is foreign    **import**: a schedule that no job can express stays Prefect's own, and the
                       job becomes on demand; nothing if the job already is
P = B, L differs       the value was changed in the ledger and is sent, as are all differences that
                       remain after the import
all differ             **conflict**: the ledger's value is sent, and Prefect's value is reported
no B (nothing was      **conflict** in all fields that differ
reconciled yet)
no P                   nothing to compare: the deployment is created
=====================  ==============================================================

The comparison of a description covers only the user's part. Other fields determine the job's
summary at the start of the description, and Daybook sends the summary whenever it differs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from daybook.json_text import JsonObject
from daybook.prefect.projection import Projection
from daybook.prefect.summary import without_summary


@dataclass(frozen=True)
class Difference:
    """Fields to import (``pull``), and Prefect's losing values of the fields in conflict."""

    pull: tuple[str, ...] = ()
    conflicts: JsonObject = field(default_factory=dict)


def compare(ours: Projection, base: JsonObject | None, theirs: Projection | None) -> Difference:
    """Compare ``ours`` (ledger), ``theirs`` (Prefect) and ``base``, the last reconciled state."""
    pull: list[str] = []
    conflicts: JsonObject = {}
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


def _of_user(fields: JsonObject | None, name: str) -> Any:
    """Return a field's value (of a description, the user's part), or None if it is missing."""
    value = (fields or {}).get(name)
    if name == "description" and value is not None:
        return without_summary(value)
    return value


def differing_fields(ours: Projection, theirs: Projection | None) -> set[str]:
    """Return the fields that differ and have to be sent to Prefect; all if ``theirs`` is None.

    Leave out a schedule that stays Prefect's own.
    """
    if theirs is None:
        return set(ours.as_dict())
    observed = theirs.as_dict()
    differ = {name for name, value in ours.as_dict().items() if observed[name] != value}
    if not ours.schedule and "foreign" in theirs.schedule:
        differ.discard("schedule")
    return differ
