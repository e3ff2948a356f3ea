"""Judgement of a late due time: whether it still runs or is missed (promise 9).

A claim and the audit use the same function, so that they cannot disagree.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from daybook.jobs.policy import Policy
from daybook.jobs.upcoming import next_due
from daybook.schedules.descriptions import duration_in_words
from daybook.schedules.schedule import Schedule

ON_TIME_GRACE = timedelta(seconds=60)
MIN_WINDOW = timedelta(seconds=60)
MAX_WINDOW = timedelta(hours=2)
ONE_TIME_WINDOW = timedelta(hours=24)
MAX_CATCH_UP_AGE = timedelta(hours=24)
"""Maximum age of a due time that a job with `catch_up = "all"` still makes up for."""


@dataclass(frozen=True)
class Lateness:
    """Judgement of a due time: ``on_time`` and ``run`` may run, ``missed`` may not.

    ``reason`` explains ``run`` and ``missed``. ``why`` is the reason of a missed due time without
    how late it is, so that adjacent due times can share it.
    """

    verdict: Literal["on_time", "run", "missed"]
    reason: str = ""
    why: str = ""

    @property
    def runs(self) -> bool:
        return self.verdict != "missed"


@dataclass(frozen=True)
class Following:
    """Due time after the judged one; ``due`` is None if none is in sight."""

    due: datetime | None


def window(schedule: Schedule, due: datetime, policy: Policy | None = None) -> timedelta:
    """Return how late this due time may still run: half the gap to the next one, from 60 s to 2 h.

    It is 2 h if there is no next one, and 24 h for a one-time job. The window applies only
    to jobs with `catch_up = "latest"`.
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
    """Judge the due time ``due`` of ``schedule`` at ``now``; both are aware.

    With any policy, a run is on time until 60 s after its due time. After that, `catch_up` decides:
    with `none` it is missed; with `latest` it runs if it is inside its window and no later due time
    has passed; with `all` it runs until 24 hours after its due time. All bounds are inclusive.
    Only later due times within the bounds of ``policy`` count. A caller that judges consecutive due
    times passes the next one as ``following``.
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


def _missed(late: timedelta, why: str) -> Lateness:
    return Lateness("missed", f"{duration_in_words(late)} late, and {why}", why)
