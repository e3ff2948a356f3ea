"""Whether a due time that is claimed or audited late still runs (`promise.md` rule 9).

One function, used at claim and at audit, so that the two cannot disagree.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from daybook.spec.policy import Policy
from daybook.spec.schedule import At, Cron, Every, OnDemand
from daybook.spec.upcoming import next_due
from daybook.spec.words import span

ON_TIME = timedelta(seconds=60)
SHORTEST = timedelta(seconds=60)
LONGEST = timedelta(hours=2)
ONE_TIME = timedelta(hours=24)
ALL = timedelta(hours=24)
"""How long ago a due time may be that a job which catches up on all of them makes up for."""


@dataclass(frozen=True)
class Lateness:
    """``on_time`` and ``run`` may run, ``missed`` not; ``reason`` is said of the last two."""

    verdict: Literal["on_time", "run", "missed"]
    reason: str = ""

    @property
    def runs(self) -> bool:
        return self.verdict != "missed"


def window(
    schedule: Cron | Every | At | OnDemand, due: datetime, policy: Policy | None = None
) -> timedelta:
    """How late this due time may still run: half the gap to the next one, 60 s to 2 h.

    A one-time job's is 24 h, whatever comes.
    """
    if isinstance(schedule, At):
        return ONE_TIME
    following = next_due(schedule, policy or Policy(), due)
    if following is None:
        return LONGEST
    return min(max((following - due) / 2, SHORTEST), LONGEST)


def judge(
    schedule: Cron | Every | At | OnDemand,
    due: datetime,
    now: datetime,
    policy: Policy | None = None,
) -> Lateness:
    """Judge the due time ``due`` of ``schedule`` at ``now``; both aware.

    On time until 60 s after the due time, whatever the policy. Later it is missed with `none`;
    with `latest` it runs if it is inside its window and no later due time has passed; with `all`
    if it is not more than a day ago. All bounds are inclusive. ``policy`` also bounds the due times
    that come after it.
    """
    said = policy or Policy()
    late = now - due
    if late <= ON_TIME:
        return Lateness("on_time")
    told = f"{span(late)} late"
    if said.catch_up == "none":
        return Lateness("missed", f"{told}, and the job catches up on none")
    if said.catch_up == "all":
        if late > ALL:
            return Lateness("missed", f"{told}, and the job catches up on the last 24 hours")
        return Lateness("run", told)
    following = next_due(schedule, said, due)
    if following is not None and following <= now:
        return Lateness("missed", f"{told}, and a later due time has passed")
    allowed = window(schedule, due, said)
    if late > allowed:
        return Lateness("missed", f"{told}, and the window is {span(allowed)}")
    return Lateness("run", told)
