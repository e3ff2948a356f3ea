"""Lateness of a due time: whether it is on time, still runs, or is missed (promise 9).

A claim and the audit use the same function, so that they cannot disagree.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Literal

from daybook.duration_text import duration_in_words
from daybook.jobs.upcoming import next_due, stagger_offset
from daybook.policies.policy import Policy
from daybook.schedules.schedule import Schedule

if TYPE_CHECKING:
    from daybook.jobs.store import StoredJob

ON_TIME_GRACE = timedelta(seconds=60)
BUSY_AFTER = timedelta(seconds=30)
"""How long a due run waits for a claim or a slot before Daybook warns of too many due runs."""
MIN_WINDOW = timedelta(seconds=60)
MAX_WINDOW = timedelta(hours=2)
ONE_TIME_WINDOW = timedelta(hours=24)
MAX_CATCH_UP_AGE = timedelta(hours=24)
"""Maximum age of a due time that a job with `catch_up = "all"` still catches up on."""


@dataclass(frozen=True)
class Lateness:
    """Decision about a due time: it may run (``on_time``, ``run``), or it may not (``missed``).

    ``reason`` explains the verdicts ``run`` and ``missed``. ``why`` is the reason for ``missed``
    without the delay, so that adjacent missed due times can share it.
    """

    verdict: Literal["on_time", "run", "missed"]
    reason: str = ""
    why: str = ""

    @property
    def runs(self) -> bool:
        return self.verdict != "missed"


@dataclass(frozen=True)
class Following:
    """Due time after the due time in question; ``due`` is None if the search found none."""

    due: datetime | None


def window(schedule: Schedule, due: datetime, policy: Policy | None = None) -> timedelta:
    """Return the window in which this due time may still run late, if `catch_up = "latest"`.

    It is half the gap to the next due time, at least 60 s and at most 2 h; 2 h without a next due
    time, 24 h for a one-time job.
    """
    return _window(schedule, due, next_due(schedule, policy or Policy(), due))


def _window(schedule: Schedule, due: datetime, following: datetime | None) -> timedelta:
    if schedule.only_due is not None:
        return ONE_TIME_WINDOW
    if following is None:
        return MAX_WINDOW
    return min(max((following - due) / 2, MIN_WINDOW), MAX_WINDOW)


def judge(
    schedule: Schedule,
    due: datetime,
    now: datetime,
    policy: Policy | None = None,
    following: Following | None = None,
) -> Lateness:
    """Decide about the due time ``due`` of ``schedule`` at ``now``; both are aware instants.

    With any policy, a run is on time until 60 s after its due time. After that, `catch_up` decides:

    - `none`: the due time is missed
    - `latest`: it runs if it is inside its window and no later due time has passed
    - `all`: it runs until 24 hours after the due time

    All these limits are inclusive. A later due time counts only within the bounds of ``policy``. A
    caller that decides about consecutive due times passes the next due time as ``following``.
    """
    effective_policy = policy or Policy()
    late = now - due
    if late <= ON_TIME_GRACE:
        return Lateness("on_time")
    if effective_policy.catch_up == "none":
        return _missed(late, "the job does not catch up")
    if effective_policy.catch_up == "all":
        if late > MAX_CATCH_UP_AGE:
            return _missed(late, "the job only catches up on the last 24 hours")
        return Lateness("run", f"{duration_in_words(late)} late")
    next_one = following or Following(next_due(schedule, effective_policy, due))
    if next_one.due is not None and next_one.due <= now:
        return _missed(late, "a later due time has passed")
    allowed = _window(schedule, due, next_one.due)
    if late > allowed:
        return _missed(late, f"the window is {duration_in_words(allowed)}")
    return Lateness("run", f"{duration_in_words(late)} late")


def judge_at(
    stored: StoredJob, due: datetime, instant: datetime, following: Following | None = None
) -> Lateness:
    """Decide about a due time of a stored job at ``instant``, counted from its staggered time."""
    job = stored.job
    stagger = stagger_offset(stored.id, job.policy.stagger)
    return judge(job.schedule, due, instant - stagger, job.policy, following)


def _missed(late: timedelta, why: str) -> Lateness:
    return Lateness("missed", f"{duration_in_words(late)} late, and {why}", why)
