"""The due times of a job: those of its schedule that lie within its bounds.

All that asks when a job is due asks here; `daybook.schedules.due` knows the schedule alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import takewhile

from daybook.jobs.policy import Policy
from daybook.schedules import bounds, due
from daybook.schedules.schedule import At, Cron, Every, OnDemand

MOST_STEPS = 1_000
"""So often in a row the bounds may put off the next due time; then there is none in sight.

An interval may take years to come round to the active hours, and some cron expressions never do.
"""


def due_times(
    schedule: Cron | Every | At | OnDemand,
    policy: Policy,
    *,
    after: datetime,
    inclusive: bool = False,
) -> Iterator[datetime]:
    """The due times strictly after ``after`` (from it on, if ``inclusive``), in UTC, increasing."""
    limits = bounds.of(policy, schedule.timezone)
    if not limits:
        yield from due.due_times(schedule, after=after, inclusive=inclusive)
        return
    steps = 0
    while steps < MOST_STEPS:
        for instant in due.due_times(schedule, after=after, inclusive=inclusive):
            if limits.why_not(instant):
                on = limits.go_on(instant)
                break
            steps = 0
            yield instant
        else:
            return
        if on is None:
            return
        after, inclusive, steps = on, True, steps + 1


def next_due(
    schedule: Cron | Every | At | OnDemand, policy: Policy, after: datetime
) -> datetime | None:
    """The first due time strictly after ``after``, in UTC; None when none is in sight."""
    return next(due_times(schedule, policy, after=after), None)


def is_due(schedule: Cron | Every | At | OnDemand, policy: Policy, instant: datetime) -> bool:
    """Whether exactly this instant is a due time."""
    return due.is_due(schedule, instant) and not why_not(schedule, policy, instant)


def why_not(schedule: Cron | Every | At | OnDemand, policy: Policy, instant: datetime) -> str:
    """Why the bounds keep a due time of the schedule from being one of the job; else empty."""
    return bounds.of(policy, schedule.timezone).why_not(instant)


def offset(job_id: str, stagger: timedelta | None) -> timedelta:
    """How much later than due this job's runs begin: always the same, up to ``stagger``."""
    if stagger is None:
        return timedelta(0)
    drawn = int.from_bytes(hashlib.sha256(job_id.encode()).digest()[:8])
    return timedelta(seconds=drawn % (int(stagger.total_seconds()) + 1))


def between(
    schedule: Cron | Every | At | OnDemand, policy: Policy, start: datetime, end: datetime
) -> Iterator[datetime]:
    """The due times in (start, end]."""
    return takewhile(lambda instant: instant <= end, due_times(schedule, policy, after=start))
