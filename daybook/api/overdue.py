"""Sentences that explain why a run is overdue."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Self

from pydantic import BaseModel, Field

from daybook.duration_text import duration_in_words
from daybook.errors import FREE_SPACE, says_disk_full
from daybook.instants import UtcTime
from daybook.jobs.lateness import BUSY_AFTER
from daybook.keeper import leader_lease
from daybook.keeper.cost import CycleCost
from daybook.ledger.engine import open_ledger
from daybook.schedules.zones import time_with_zone
from daybook.timing import TIMING

if TYPE_CHECKING:
    from daybook.keeper.leader_lease import Leader
    from daybook.prefect.work_pool import WorkPool
    from daybook.runs.overdue import Overdue

MAX_CLOCK_SKEW = timedelta(seconds=1)
"""Maximum clock skew that Daybook, for example `daybook doctor`, does not report as a problem."""
MAX_OBSERVATION_AGE = timedelta(minutes=10)
"""Maximum age of the last observation of Prefect. An observation itself also takes some time."""
CATCH_UP_GRACE = timedelta(minutes=2)
"""Time in which a new leader reads Prefect and audits the due times before its leadership."""
NO_KEEPER = "no keeper leads, so nothing is reconciled, audited or delivered"

NOTHING_RUNS = "no worker is running, so no job starts; start `daybook up`"


@dataclass(frozen=True)
class DelayFacts:
    """The facts that can explain a delay.

    If Prefect does not answer, ``prefect_error`` is the reason. ``pool`` is None if the work pool
    was not read. ``prefect_ahead`` and ``ledger_ahead`` are the times by which the clocks of
    Prefect and of the ledger are ahead of this machine's clock. ``leader`` is None if the leader
    was not read, or if there never was a leader. If the ledger cannot be written, ``unwritable`` is
    the reason.
    """

    now: datetime
    prefect_error: str = ""
    pool: WorkPool | None = None
    prefect_ahead: timedelta = timedelta(0)
    ledger_ahead: timedelta = timedelta(0)
    leader: Leader | None = None
    unwritable: str = ""


class KeeperStatus(BaseModel, frozen=True):
    """The last recorded state of the leading keeper. ``running`` is true if a keeper leads now.

    If no keeper leads, ``holder`` is the last leader; empty if the last leader released the
    leadership. ``until`` is the time at which the holder's lease expires. ``observed_at`` is the
    time at which the last complete observation of Prefect started. Both may be None. ``passes`` has
    the cost of the last cycle of each service.
    """

    running: bool
    holder: str
    until: UtcTime | None
    observed_at: UtcTime | None
    passes: dict[str, CycleCost]

    @classmethod
    def of(cls, leader: Leader | None, now: datetime) -> Self:
        """Return the status at ``now``; ``leader`` is None if there never was a leader."""
        if leader is None:
            return cls(running=False, holder="", until=None, observed_at=None, passes={})
        return cls(
            running=leader.leads(now),
            holder=leader.holder,
            until=leader.until if leader.holder else None,
            observed_at=observed_at(leader),
            passes=leader.note.get("passes") or {},
        )


class OverdueRun(BaseModel, frozen=True):
    """A due time whose run has not started, or whose next attempt has not. ``why`` is the reason.

    ``missed`` is true if the due time was missed, and ``retries`` if the run has had an attempt.
    ``run`` is the id of the run, if there is a run. ``timezone`` is the zone of the job.
    """

    job: str
    due: UtcTime
    late_seconds: float
    run: str | None
    missed: bool
    retries: bool = False
    why: str
    timezone: str = Field(default="UTC", exclude=True)

    @classmethod
    def of(cls, each: Overdue, known: DelayFacts) -> Self:
        return cls(
            job=each.job.name,
            due=each.due,
            late_seconds=round((known.now - each.due).total_seconds(), 1),
            run=None if each.run is None else each.run.id,
            missed=each.missed,
            retries=each.retries,
            why=delay_reason(each, known),
            timezone=each.job.schedule.timezone,
        )

    def as_sentence(self) -> str:
        by = duration_in_words(timedelta(seconds=self.late_seconds))
        what = "was missed" if self.missed else "has not started"
        what = "has not ended" if self.retries else what
        now = self.due + timedelta(seconds=self.late_seconds)
        due = time_with_zone(self.due, self.timezone, now)
        return f"{self.job} was due on {due}, {by} ago, and {what}: {self.why}"


def without_catch_up(
    found: Iterable[Overdue], leader: Leader | None, now: datetime
) -> list[Overdue]:
    """Return the overdue runs without those of an outage that ended when ``leader`` took over.

    These are the missed due times before the takeover and, during `CATCH_UP_GRACE`, those not
    audited.
    """
    since = leader.since if leader is not None and leader.leads(now) else None
    if since is None:
        return list(found)
    is_new = now - since < CATCH_UP_GRACE
    return [each for each in found if each.due > since or not (each.missed or is_new)]


def delay_reason(each: Overdue, known: DelayFacts) -> str:
    """Return the reason for the delay: its direct cause, or problems of clocks and keeper.

    If no reason is known, return that no worker has claimed the run.
    """
    row = each.run
    waiting = f"waiting: {row.reason}" if row is not None and row.wait_reason.for_runs else ""
    if row is not None and waiting and not row.wait_reason.of_worker:
        return waiting
    if known.prefect_error:
        return "Prefect does not answer"
    if known.pool and known.pool.paused:
        return f"paused in Prefect: {', '.join(known.pool.paused)}"
    if known.pool and known.pool.idle:
        return known.pool.idle
    queue = each.job.policy.class_
    if known.pool and queue in known.pool.unserved:
        return f"no worker serves the work queue {queue}; start `daybook worker --queue {queue}`"
    if waiting:
        return waiting
    if each.job.sync_pending:
        return "the job's last change is not in Prefect yet"
    why = "no worker claimed it" if each.missed else "no worker has claimed it yet"
    if known.pool and known.pool.unclaimed:
        why += f"; {unclaimed(known.pool.unclaimed)}"
    return "; ".join(filter(None, (clock_problem(known), keeper_problem(known)))) or why


def unclaimed(count: int) -> str:
    """Describe ``count`` runs that are due and that the workers have had no time for."""
    runs, them = ("a run has", "it") if count == 1 else (f"{count:,} runs have", "them")
    limit = duration_in_words(BUSY_AFTER)
    return f"{runs} been due for more than {limit}, and no worker has started or ended {them} yet"


def clock_problem(known: DelayFacts) -> str:
    """Describe the clocks that are skewed; return "" if no clock is skewed."""
    skews = (
        clock_skew("Prefect's", known.prefect_ahead),
        clock_skew("the ledger's", known.ledger_ahead),
    )
    return ", ".join(filter(None, skews))


def clock_skew(whose: str, ahead: timedelta) -> str:
    """Describe a clock that differs from this machine's by more than `MAX_CLOCK_SKEW`; else ""."""
    if abs(ahead) <= MAX_CLOCK_SKEW:
        return ""
    side = "ahead of" if ahead > timedelta(0) else "behind"
    return f"{whose} clock is {abs(ahead).total_seconds():.1f} s {side} this machine's"


def keeper_problem(known: DelayFacts) -> str:
    """Return a problem if no keeper leads or if the last observation is too old, otherwise "".

    If a leader exits or is killed, another keeper replaces it within one lease. So only a longer
    time without a leader is a problem.
    """
    leader = known.leader
    if leader is None or leader.until + TIMING.leader_lease < known.now:
        if not (why := known.unwritable):
            return NO_KEEPER
        return f"the ledger is not writable ({why}), so no keeper leads; {ledger_write_fix(why)}"
    observed = observed_at(leader)
    if observed is not None and known.now - observed > MAX_OBSERVATION_AGE:
        return f"Prefect was last observed {duration_in_words(known.now - observed)} ago"
    return ""


def ledger_write_fix(why: str) -> str:
    """Return the fix for a ledger that cannot be written."""
    if says_disk_full(why):
        return FREE_SPACE
    if "locked" in why:
        return "end the process that holds its lock"
    return "check its disk and its permissions"


def observed_at(leader: Leader) -> datetime | None:
    """Return the start of the leader's last complete observation of Prefect, from its last note."""
    noted = leader.note.get("observed_at")
    return None if noted is None else datetime.fromisoformat(noted)


async def why_nothing_runs() -> str:
    """Return `NOTHING_RUNS` if no keeper leads, otherwise "". Works without Prefect.

    Each worker of Daybook contains a keeper. So if no keeper leads, no worker is running.
    """
    async with open_ledger() as ledger:
        leader = await leader_lease.read(ledger, leader_lease.LEADERSHIP_NAME)
        if leader is not None and leader.leads(ledger.now()):
            return ""
    return NOTHING_RUNS
