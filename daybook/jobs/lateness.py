"""Whether a due time that is claimed or audited late still runs (`promise.md` rule 9).

One function, used at claim and at audit, so that the two cannot disagree.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from daybook.jobs.policy import Policy
from daybook.jobs.upcoming import next_due
from daybook.schedules.descriptions import span
from daybook.schedules.schedule import At, Cron, Every, OnDemand

ON_TIME = timedelta(seconds=60)
SHORTEST = timedelta(seconds=60)
LONGEST = timedelta(hours=2)
ONE_TIME = timedelta(hours=24)
ALL = timedelta(hours=24)
"""How long ago a due time may be that a job which catches up on all of them makes up for."""


@dataclass(frozen=True)
class Lateness:
    """``on_time`` and ``run`` may run, ``missed`` not; ``reason`` is said of the last two.

    ``why`` is what of a missed one's reason is said of its neighbours as well: not how late it is.
    """

    verdict: Literal["on_time", "run", "missed"]
    reason: str = ""
    why: str = ""

    @property
    def runs(self) -> bool:
        return self.verdict != "missed"


@dataclass(frozen=True)
class Following:
    """The due time that comes next after the one that is judged; None when none is in sight."""

    due: datetime | None


def window(
    schedule: Cron | Every | At | OnDemand, due: datetime, policy: Policy | None = None
) -> timedelta:
    """How late this due time may still run: half the gap to the next one, 60 s to 2 h.

    A one-time job's is 24 h, whatever comes.
    """
    return _window(schedule, due, next_due(schedule, policy or Policy(), due))


def _window(
    schedule: Cron | Every | At | OnDemand, due: datetime, following: datetime | None
) -> timedelta:
    if isinstance(schedule, At):
        return ONE_TIME
    if following is None:
        return LONGEST
    return min(max((following - due) / 2, SHORTEST), LONGEST)


def judge(
    schedule: Cron | Every | At | OnDemand,
    due: datetime,
    now: datetime,
    policy: Policy | None = None,
    following: Following | None = None,
) -> Lateness:
    """Judge the due time ``due`` of ``schedule`` at ``now``; both aware.

    On time until 60 s after the due time, whatever the policy. Later it is missed with `none`;
    with `latest` it runs if it is inside its window and no later due time has passed; with `all`
    if it is not more than a day ago. All bounds are inclusive. ``policy`` also bounds the due times
    that come after it; who goes through them one after the other gives the ``following`` one.
    """
    said = policy or Policy()
    late = now - due
    if late <= ON_TIME:
        return Lateness("on_time")
    if said.catch_up == "none":
        return _missed(late, "the job catches up on none")
    if said.catch_up == "all":
        if late > ALL:
            return _missed(late, "the job catches up on the last 24 hours")
        return Lateness("run", f"{span(late)} late")
    known = following or Following(next_due(schedule, said, due))
    if known.due is not None and known.due <= now:
        return _missed(late, "a later due time has passed")
    allowed = _window(schedule, due, known.due)
    if late > allowed:
        return _missed(late, f"the window is {span(allowed)}")
    return Lateness("run", f"{span(late)} late")


def _missed(late: timedelta, why: str) -> Lateness:
    return Lateness("missed", f"{span(late)} late, and {why}", why)
