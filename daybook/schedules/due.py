"""Due times of a schedule as instants, correct across daylight saving.

An interval ignores daylight saving: its due times are anchor + n * every, n ≥ 1. A one-time
schedule has one due time. A cron expression refers to the wall clock of its zone, by one of two
rules:

Fixed times
    Neither the minute nor the hour field has an item `*` or `*/n`. (`0-59/15` counts as fixed,
    because it names each value.) Each matching wall-clock time is due once. A time that occurs
    twice is due at its first occurrence; a time that the clocks skip is due at the first instant
    after the gap. If several times are due at this instant (times in the gap, and the time at its
    end), the schedule is due once.

Real time
    The minute or the hour field has an item `*` or `*/n`. Each instant at which the clocks show a
    matching time is due: in both passes of a repeated hour, and never in a skipped hour. So
    `*/30 * * * *` fires every 30 minutes through both changes. `*/15 2 * * *` is not due on the day
    on which the clocks skip from 02:00 to 03:00.

Only the minute and the hour field decide, even if the expression has six fields. `* 30 2 * * *` is
fixed: if the clocks skip its sixty seconds, it is due once, after the gap. `0 */5 * * * *` and
`@hourly` are real time; `@daily` is fixed. Other changes of the offset (by half an hour, at
midnight, or by a whole day: Apia skipped 30 December 2011) need no special case. Only the time that
the clocks show counts.

`croniter` expands the expression in naive local time; the zone's rules come from zoneinfo.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import takewhile
from typing import Protocol
from zoneinfo import ZoneInfo

from croniter import croniter

from daybook.schedules import cron
from daybook.schedules.zones import LAST_YEAR, next_change, to_instant, wall_time, zone

_SECOND = timedelta(seconds=1)


class Timed(Protocol):
    """Part of a schedule (`daybook.schedules.schedule`) that this module uses."""

    def due_after(self, floor: datetime) -> Iterator[datetime]: ...


def due_times(schedule: Timed, *, after: datetime, inclusive: bool = False) -> Iterator[datetime]:
    """Return the due times after ``after`` (with ``inclusive``, also a due time at ``after``).

    ``after`` is aware, in any zone; the results are in UTC, in whole seconds, and strictly
    increasing. Most schedules have no last due time: take as many as you need.
    """
    floor = after.astimezone(UTC).replace(microsecond=0)
    if inclusive and floor == after:
        floor -= _SECOND
    return schedule.due_after(floor)


def next_due(schedule: Timed, after: datetime) -> datetime | None:
    """Return the first due time strictly after ``after``, in UTC; None if there is none."""
    return next(due_times(schedule, after=after), None)


def is_due(schedule: Timed, instant: datetime) -> bool:
    """Return whether exactly this instant is a due time; due times are whole seconds."""
    if instant.microsecond:
        return False
    return next(due_times(schedule, after=instant, inclusive=True), None) == instant


def between(schedule: Timed, start: datetime, end: datetime) -> Iterator[datetime]:
    """Return the due times in (start, end]."""
    return takewhile(lambda instant: instant <= end, due_times(schedule, after=start))


def interval_times(anchor: datetime, every: timedelta, after: datetime) -> Iterator[datetime]:
    """Yield the instants anchor + n * every, n ≥ 1, that are after ``after``."""
    passed = (after - anchor) // every
    due = anchor + max(passed + 1, 1) * every
    while due.year <= LAST_YEAR:
        yield due
        due += every


def cron_times(expr: str, timezone: str, after: datetime) -> Iterator[datetime]:
    """Return the instants after ``after``, in UTC, at which a cron expression is due."""
    is_real_time = cron.read_fields(expr).real_time
    return (_real_time if is_real_time else _fixed)(expr, zone(timezone), after)


def _wall_times(expr: str, after: datetime) -> Iterator[datetime]:
    """Yield the matching wall-clock times strictly after ``after``, as naive datetimes."""
    times = copy(_parsed(expr))
    times.set_current(after)
    return takewhile(lambda local: local.year <= LAST_YEAR, times.all_next(datetime))


@lru_cache(maxsize=1024)
def _parsed(expr: str) -> croniter:
    """Return the parsed expression; a caller must copy it before use.

    Parsing takes two thirds of the time to compute a due time, so it is cached.
    """
    return croniter(
        expr,
        0.0,
        second_at_beginning=True,
        max_years_between_matches=cron.MAX_YEARS_BETWEEN_MATCHES,
    )


def _fixed(expr: str, tz: ZoneInfo, after: datetime) -> Iterator[datetime]:
    # Later wall-clock times never resolve to earlier instants. So no time up to the time that the
    # clocks show at ``after`` is due later, and only equal neighbours have to be dropped.
    last = after
    for local in _wall_times(expr, wall_time(after, tz)):
        instant = to_instant(local, tz)
        if instant > last:
            last = instant
            yield instant


def _real_time(expr: str, tz: ZoneInfo, after: datetime) -> Iterator[datetime]:
    # Between two changes of the offset, local and real time run in step. All due times up to the
    # instant ``done`` have been yielded; ``local`` is the wall-clock time to continue after.
    done, local = after, wall_time(after, tz)
    offset = after.astimezone(tz).utcoffset() or timedelta()
    while True:
        for match in _wall_times(expr, local):
            instant = match.replace(tzinfo=UTC) - offset
            change = next_change(tz, done, instant)
            if change is not None:
                done, local = change, wall_time(change, tz) - _SECOND
                offset = change.astimezone(tz).utcoffset() or timedelta()
                break
            done = instant
            yield instant
        else:
            return
