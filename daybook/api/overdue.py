"""Reasons why a run is overdue, as sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from daybook.api import views
from daybook.keeper import leader_lease
from daybook.runs import slots
from daybook.runs.overdue import Overdue
from daybook.schedules.descriptions import duration_in_words
from daybook.timing import TIMING

if TYPE_CHECKING:
    from daybook.keeper.leader_lease import Leader
    from daybook.prefect.work_pool import WorkPool

MAX_CLOCK_SKEW = timedelta(seconds=1)
"""Maximum clock skew before it is reported as a problem (`docs/promise.md` 16)."""
MAX_OBSERVATION_AGE = timedelta(minutes=10)
"""Maximum age of the last observation of Prefect; one observation takes its time."""
NO_KEEPER = "no keeper leads, so nothing is reconciled, audited or delivered"


@dataclass(frozen=True)
class DelayFacts:
    """The facts that can explain a delay.

    If Prefect does not answer, ``away`` says why. ``pool`` is None if it was not read.
    ``prefect_ahead`` and ``ledger_ahead`` say how far those clocks are ahead of this machine's.
    ``unwritable`` says why the ledger cannot be written.
    """

    now: datetime
    away: str = ""
    pool: WorkPool | None = None
    prefect_ahead: timedelta = timedelta(0)
    ledger_ahead: timedelta = timedelta(0)
    leader: Leader | None = None
    unwritable: str = ""


def delay_reason(each: Overdue, known: DelayFacts) -> str:
    """Return the reason for the delay of this due time; the nearest cause comes first."""
    row = each.run
    if row is not None and row.waits_for in (slots.SLOT, slots.OVERLAP, slots.HOLDER):
        return f"waiting: {row.reason}"
    if known.away:
        return "Prefect does not answer"
    if known.pool and known.pool.paused:
        return f"paused in Prefect: {', '.join(known.pool.paused)}"
    if known.pool and known.pool.idle:
        return known.pool.idle
    if row is not None and row.waits_for == slots.WORKER:
        return f"waiting: {row.reason}"
    if each.stored.row.sync_pending:
        return "the job is not in Prefect yet"
    unclaimed = "no worker claimed it" if each.missed else "no worker has claimed it yet"
    return "; ".join(filter(None, (clock_problem(known), keeper_problem(known)))) or unclaimed


def clock_problem(known: DelayFacts) -> str:
    """Report the clocks that are off; empty if none is."""
    skews = (
        clock_skew("Prefect's", known.prefect_ahead),
        clock_skew("the ledger's", known.ledger_ahead),
    )
    return ", ".join(filter(None, skews))


def clock_skew(whose: str, ahead: timedelta) -> str:
    """Describe a clock that is more than `MAX_CLOCK_SKEW` off this machine's; empty otherwise."""
    if abs(ahead) <= MAX_CLOCK_SKEW:
        return ""
    side = "ahead of" if ahead > timedelta(0) else "behind"
    return f"{whose} clock is {abs(ahead).total_seconds():.1f} s {side} this machine's"


def keeper_problem(known: DelayFacts) -> str:
    """Return a problem if no keeper leads or the last observation is too old; "" if all is well.

    A leader that exits or is killed is replaced within one lease, so only a longer absence counts.
    """
    leader = known.leader
    if leader is None or leader.until + TIMING.leader_lease < known.now:
        return ledger_write_problem(known.unwritable) if known.unwritable else NO_KEEPER
    observed = observed_at(leader)
    if observed is not None and known.now - observed > MAX_OBSERVATION_AGE:
        return f"Prefect was last observed {duration_in_words(known.now - observed)} ago"
    return ""


def ledger_write_problem(why: str) -> str:
    """Return why the ledger cannot be written, the consequence, and the fix, as one sentence."""
    return f"the ledger cannot be written ({why}), so no keeper leads; {ledger_write_fix(why)}"


def ledger_write_fix(why: str) -> str:
    """Return the fix for a ledger that cannot be written."""
    if "full" in why or "no space" in why.lower():
        return "free space on its disk"
    if "locked" in why:
        return "end the process that holds its lock"
    return "check its disk and its permissions"


def observed_at(leader: Leader) -> datetime | None:
    """Return when the last complete observation of Prefect started, by this leader's last note."""
    noted = leader.note.get("observed_at")
    return None if noted is None else datetime.fromisoformat(noted)


def keeper_view(leader: Leader | None, now: datetime) -> dict[str, Any]:
    """Return `{"running", "holder", "until", "observed_at", "passes"}`, from the leader's last
    note.

    ``passes`` has `{"at", "seconds", "cpu_seconds", "requests", "error"}` for each service.
    """
    if leader is None:
        leader = leader_lease.Leader("", now, {})
    return {
        "running": leader.leads(now),
        "holder": leader.holder,
        "until": views.utc_text(leader.until) if leader.holder else None,
        "observed_at": views.utc_text(observed_at(leader)),
        "passes": leader.note.get("passes", {}),
    }


def overdue_views(found: Sequence[Overdue], known: DelayFacts) -> list[dict[str, Any]]:
    """Return `{"job", "due", "late_seconds", "run", "missed", "why"}` for each overdue run."""
    return [
        {
            "job": each.stored.row.name,
            "due": views.utc_text(each.due),
            "late_seconds": round((known.now - each.due).total_seconds(), 1),
            "run": None if each.run is None else each.run.id,
            "missed": each.missed,
            "why": delay_reason(each, known),
        }
        for each in found
    ]


def as_sentence(late: dict[str, Any]) -> str:
    """Return one item of `overdue_views` as a sentence."""
    by = duration_in_words(timedelta(seconds=late["late_seconds"]))
    what = "was missed" if late["missed"] else "has not started"
    return f"{late['job']} was due at {late['due']}, {by} ago, and {what}: {late['why']}"
