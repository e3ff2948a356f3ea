"""Due times of a job: the due times of its schedule that lie within its bounds.

To find out when a job is due, use this module: `daybook.schedules.due` ignores the bounds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import takewhile

from daybook.policies.policy import Policy
from daybook.schedules import bounds, due
from daybook.schedules.bounds import Bounds
from daybook.schedules.schedule import Schedule

ONE_MICROSECOND = timedelta(microseconds=1)

MAX_SKIPS = 1_000
"""Maximum number of consecutive excluded ranges that the search for the next due time skips.

Years may pass until a due time of an interval is within the active hours, and the due times of
some cron expressions never are.
"""


def due_times(
    schedule: Schedule,
    policy: Policy,
    *,
    after: datetime,
    inclusive: bool = False,
) -> Iterator[datetime]:
    """Yield the due times, in UTC, strictly increasing, after (with ``inclusive``, from) ``after``.

    The search ends after `MAX_SKIPS` excluded ranges without a due time between them.
    """
    limits = bounds.read_bounds(policy, schedule.timezone)
    return _within(schedule, limits, after, inclusive=inclusive)


def _within(
    schedule: Schedule, limits: Bounds, after: datetime, *, inclusive: bool
) -> Iterator[datetime]:
    if not limits:
        yield from due.due_times(schedule, after=after, inclusive=inclusive)
        return
    skips = 0
    while skips < MAX_SKIPS:
        for instant in due.due_times(schedule, after=after, inclusive=inclusive):
            if limits.exclusion_reason(instant):
                next_candidate = limits.next_candidate(instant)
                break
            skips = 0
            yield instant
        else:
            return
        if next_candidate is None:
            return
        after, inclusive, skips = next_candidate, True, skips + 1


def next_due(schedule: Schedule, policy: Policy, after: datetime) -> datetime | None:
    """Return the first due time strictly after ``after``, in UTC; None if none is found."""
    limits = bounds.read_bounds(policy, schedule.timezone)
    # Due times are whole seconds: the due times after an instant are the due times after its
    # second.
    return _next_due(schedule, limits, after.astimezone(UTC).replace(microsecond=0))


@lru_cache(maxsize=4096)
def _next_due(schedule: Schedule, limits: Bounds, after: datetime) -> datetime | None:
    """Return the first due time; it is cached, because many listed jobs share the arguments."""
    return next(_within(schedule, limits, after, inclusive=False), None)


def starts(
    schedule: Schedule,
    policy: Policy,
    after: datetime,
    skips: Collection[str] = (),
    snoozed_until: datetime | None = None,
) -> Iterator[datetime]:
    """Yield the due times after ``after`` that are neither in ``skips`` nor snoozed, in UTC."""
    if snoozed_until:
        after = max(after, snoozed_until - ONE_MICROSECOND)
    first = next_due(schedule, policy, after)  # cached: many jobs in a list share it
    if not first:
        return
    if first.isoformat() not in skips:
        yield first
    for instant in due_times(schedule, policy, after=first):
        if instant.isoformat() not in skips:
            yield instant


def is_due(schedule: Schedule, policy: Policy, instant: datetime) -> bool:
    """Return whether exactly this instant is a due time."""
    return due.is_due(schedule, instant) and not exclusion_reason(schedule, policy, instant)


def exclusion_reason(schedule: Schedule, policy: Policy, instant: datetime) -> str:
    """Return why the bounds exclude a due time of the schedule, or "" if they do not."""
    return bounds.read_bounds(policy, schedule.timezone).exclusion_reason(instant)


def stagger_offset(job_id: str, stagger: timedelta | None) -> timedelta:
    """Return how long after their due times this job's runs start: a constant up to ``stagger``."""
    if stagger is None:
        return timedelta(0)
    number = int.from_bytes(hashlib.sha256(job_id.encode()).digest()[:8])
    return timedelta(seconds=number % (int(stagger.total_seconds()) + 1))


def between(
    schedule: Schedule, policy: Policy, start: datetime, end: datetime
) -> Iterator[datetime]:
    """Yield the due times in (start, end], in UTC and strictly increasing."""
    return takewhile(lambda instant: instant <= end, due_times(schedule, policy, after=start))
