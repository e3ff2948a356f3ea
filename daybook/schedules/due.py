"""The due times of a schedule, as instants, right across daylight saving (requirement 7).

An interval has none: anchor + n * every, n ≥ 1, whatever the clocks do. A one-time schedule has its
one instant. A cron expression speaks of the wall clock of its zone, and there two rules hold:

Fixed times
    Neither the minute nor the hour field has a `*` or `*/n` (as one of its items; `0-59/15` counts
    as fixed, because each value is named). Each wall-clock time that matches is due once: a time
    that the clocks show twice, the first time; a time that they skip, at the first instant after
    the gap. Several skipped times, and one at the gap's very end, fall on the same instant, which
    is due once.

Real time
    The minute or the hour field has a `*` or `*/n`. Due is each instant at which the clocks show a
    time that matches: in both passes of a repeated stretch, and in none that is skipped. So
    `*/30 * * * *` keeps firing every 30 minutes through both changes, and `*/15 2 * * *` is not due
    on the day when the clocks skip from 02:00 to 03:00.

Only the minute and the hour field decide, in six-field expressions too: `* 30 2 * * *` is fixed
(its sixty skipped seconds are due once, after the gap), `0 */5 * * * *` and `@hourly` are real
time, `@daily` is fixed. A change of the zone's offset that is not daylight saving, a half-hour one,
one at midnight and one of a whole day (Apia skipped 30 December 2011) are nothing special: only
what the clocks show counts.

`croniter` expands the expression in naive local time; the zone's rules are zoneinfo's.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from zoneinfo import ZoneInfo

from croniter import croniter

from daybook.schedules import cron
from daybook.schedules.schedule import At, Cron, Every, OnDemand
from daybook.schedules.zones import next_change, resolve, wall, zone

_SECOND = timedelta(seconds=1)
_LAST_YEAR = 9000  # far from the end of datetime's range, where arithmetic overflows


def due_times(
    schedule: Cron | Every | At | OnDemand, *, after: datetime, inclusive: bool = False
) -> Iterator[datetime]:
    """The due times strictly after ``after`` (from it on, if ``inclusive``), strictly increasing.

    ``after`` is aware, of any zone; what comes is in UTC, in whole seconds. Most schedules go on
    without end: take as many as you need.
    """
    floor = after.astimezone(UTC).replace(microsecond=0)
    if inclusive and floor == after:
        floor -= _SECOND
    match schedule:
        case Cron():
            tz = zone(schedule.timezone)
            if cron.read(schedule.expr).real_time:
                return _real_time(schedule.expr, tz, floor)
            return _fixed(schedule.expr, tz, floor)
        case Every():
            return _intervals(schedule, floor)
        case At():
            return iter([schedule.at] if schedule.at > floor else [])
        case OnDemand():
            return iter(())


def next_due(schedule: Cron | Every | At | OnDemand, after: datetime) -> datetime | None:
    """The first due time strictly after ``after``, in UTC; None when there is none."""
    return next(due_times(schedule, after=after), None)


def is_due(schedule: Cron | Every | At | OnDemand, instant: datetime) -> bool:
    """Whether exactly this instant is a due time; one with a fraction of a second never is."""
    if instant.microsecond:
        return False
    return next(due_times(schedule, after=instant, inclusive=True), None) == instant


def between(
    schedule: Cron | Every | At | OnDemand, start: datetime, end: datetime
) -> Iterator[datetime]:
    """The due times in (start, end]."""
    return takewhile(lambda instant: instant <= end, due_times(schedule, after=start))


def _intervals(schedule: Every, after: datetime) -> Iterator[datetime]:
    passed = (after - schedule.anchor) // schedule.every
    due = schedule.anchor + max(passed + 1, 1) * schedule.every
    while due.year <= _LAST_YEAR:
        yield due
        due += schedule.every


def _walls(expr: str, after: datetime) -> Iterator[datetime]:
    """The wall-clock times that match, strictly after ``after``; naive."""
    times = croniter(
        expr, after, second_at_beginning=True, max_years_between_matches=cron.YEARS
    ).all_next(datetime)
    return takewhile(lambda local: local.year <= _LAST_YEAR, times)


def _fixed(expr: str, tz: ZoneInfo, after: datetime) -> Iterator[datetime]:
    # Later wall-clock times never resolve to earlier instants, so nothing up to what the clocks
    # show at ``after`` can be due after it, and equal neighbours are all there is to drop.
    last = after
    for local in _walls(expr, wall(after, tz)):
        instant = resolve(local, tz)
        if instant > last:
            last = instant
            yield instant


def _real_time(expr: str, tz: ZoneInfo, after: datetime) -> Iterator[datetime]:
    # From one change of the offset to the next, local and real time run in step. ``seen`` is the
    # instant up to which all is told, ``local`` the wall-clock time to go on from, exclusive.
    seen, local = after, wall(after, tz)
    offset = after.astimezone(tz).utcoffset() or timedelta()
    while True:
        for match in _walls(expr, local):
            instant = match.replace(tzinfo=UTC) - offset
            change = next_change(tz, seen, instant)
            if change is not None:
                seen, local = change, wall(change, tz) - _SECOND
                offset = change.astimezone(tz).utcoffset() or timedelta()
                break
            seen = instant
            yield instant
        else:
            return
