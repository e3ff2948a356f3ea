"""Why something is late, in words (requirement 59)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from daybook.api import views
from daybook.keeper import leadership
from daybook.runs import slots
from daybook.runs.overdue import Overdue
from daybook.schedules.descriptions import span
from daybook.timing import TIMING

if TYPE_CHECKING:
    from daybook.keeper.leadership import Leader
    from daybook.prefect.work_pool import Pool

FAR = timedelta(seconds=1)
"""How far a clock may be off (`docs/promise.md` 16)."""
UNSEEN = timedelta(minutes=10)
"""After so long without an observation of Prefect it is told of; a pass takes its time."""
LEAD = "keeper"
"""The name of its lead: `daybook.keeper.leader`, which imports Prefect."""
NO_KEEPER = "no keeper leads, so nothing is observed, audited or carried on"


@dataclass(frozen=True)
class Known:
    """What may keep a run from its time. ``away`` says why Prefect does not answer; ``pool`` is
    None then. ``prefect_ahead`` and ``ledger_ahead`` are how far those clocks are ahead of this
    machine's. ``unwritable`` says why the ledger cannot be written.
    """

    now: datetime
    away: str = ""
    pool: Pool | None = None
    prefect_ahead: timedelta = timedelta(0)
    ledger_ahead: timedelta = timedelta(0)
    leader: Leader | None = None
    unwritable: str = ""


def why(each: Overdue, known: Known) -> str:
    """What keeps this due time, the nearest cause first."""
    row = each.run
    if row is not None and row.waits_for in (slots.SLOT, slots.OVERLAP, slots.HOLDER):
        return f"it waits: {row.reason}"
    if known.away or known.pool is None:
        return "Prefect does not answer"
    if known.pool.paused:
        return f"paused in Prefect: {', '.join(known.pool.paused)}"
    if known.pool.idle:
        return known.pool.idle
    if row is not None and row.waits_for == slots.WORKER:
        return f"it waits: {row.reason}"
    if each.stored.row.sync_pending:
        return "the job is not in Prefect yet"
    nobody = "nobody came for it" if each.missed else "nobody has come for it, as yet"
    return "; ".join(filter(None, (clocks(known), keeper(known)))) or nobody


def clocks(known: Known) -> str:
    """That a clock is off, in words; empty when none is."""
    off = {"Prefect's": known.prefect_ahead, "the ledger's": known.ledger_ahead}
    told = [
        f"{whose} clock is {abs(by).total_seconds():.1f} s {'ahead' if by > FAR else 'behind'}"
        for whose, by in off.items()
        if abs(by) > FAR
    ]
    return ", ".join(told)


def keeper(known: Known) -> str:
    """That nobody leads, or that Prefect was not observed for long; empty when all is well.

    One that ended or was killed is followed within a lease.
    """
    leader = known.leader
    if leader is None or leader.until + TIMING.leader_lease < known.now:
        return cannot_write(known.unwritable) if known.unwritable else NO_KEEPER
    seen = observed_at(leader)
    if seen is not None and known.now - seen > UNSEEN:
        return f"Prefect was last observed {span(known.now - seen)} ago"
    return ""


def cannot_write(why: str) -> str:
    """That the ledger cannot be written, why, what comes of it, and what to do."""
    return f"the ledger cannot be written ({why}), so no keeper leads; {to_write(why)}"


def to_write(why: str) -> str:
    """What to do about a ledger that cannot be written."""
    if "full" in why or "no space" in why.lower():
        return "free space on its disk"
    if "locked" in why:
        return "end the process that keeps it locked"
    return "see to its disk and its permissions"


def observed_at(leader: Leader) -> datetime | None:
    """When the last complete look at Prefect began, as this leader told it."""
    told = leader.note.get("observed_at")
    return None if told is None else datetime.fromisoformat(told)


def as_view(leader: Leader | None, now: datetime) -> dict[str, Any]:
    """`{"running", "holder", "until", "observed_at", "passes"}`; what it told is its last word.

    ``passes`` holds for each `{"at", "seconds", "cpu_seconds", "requests", "error"}`.
    """
    if leader is None:
        leader = leadership.Leader("", now, {})
    return {
        "running": leader.leads(now),
        "holder": leader.holder,
        "until": views.utc(leader.until) if leader.holder else None,
        "observed_at": views.utc(observed_at(leader)),
        "passes": leader.note.get("passes", {}),
    }


def told(found: Sequence[Overdue], known: Known) -> list[dict[str, Any]]:
    """`{"job", "due", "late_seconds", "run", "missed", "why"}` for each."""
    return [
        {
            "job": each.stored.row.name,
            "due": views.utc(each.due),
            "late_seconds": round((known.now - each.due).total_seconds(), 1),
            "run": None if each.run is None else each.run.id,
            "missed": each.missed,
            "why": why(each, known),
        }
        for each in found
    ]


def in_words(late: dict[str, Any]) -> str:
    """One of `told`, as a sentence."""
    by = span(timedelta(seconds=late["late_seconds"]))
    what = "was missed" if late["missed"] else "has not begun"
    return f"{late['job']} was due at {late['due']}, {by} ago, and {what}: {late['why']}"
