"""Brute-force oracle for due times: it tries each minute (or second) of a period.

It is independent of the code under test: it imports neither Daybook nor croniter, has its own
parser, and knows of a zone only what its clocks show at an instant.

The rule is that of requirement 7. Fixed times: a matching time is due when the clocks show it for
the first time; if they jump over it, it is due at the instant of the jump. Real time (`*` or `*/n`
in minute or hour): each instant is due at which the clocks show a matching time.
"""

from __future__ import annotations

import calendar
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

MINUTE = timedelta(minutes=1)
SECOND = timedelta(seconds=1)
LOOK_BACK = timedelta(hours=5)  # no clock was set back further since 1980
NAMES = {
    name: number
    for names, first in (
        ("jan feb mar apr may jun jul aug sep oct nov dec", 1),
        ("sun mon tue wed thu fri sat", 0),
    )
    for number, name in enumerate(names.split(), first)
}
ALIASES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}


def numbers(text: str, low: int, high: int) -> set[int]:
    """Return the numbers that match a field of plain items."""
    found: set[int] = set()
    for item in text.split(","):
        body, slash, step = item.partition("/")
        start, dash, end = body.partition("-")
        if body in ("*", "?"):
            first, last = low, high
        else:
            first = NAMES[start] if start in NAMES else int(start)
            last = first
            if dash:
                last = NAMES[end] if end in NAMES else int(end)
            elif slash:
                last = high
        while last < first:  # the range wraps around
            last += high - low + 1
        for value in range(first, last + 1, int(step or 1)):
            found.add((value - low) % (high - low + 1) + low)
    return found


class Expression:
    """Cron expression that is matched against the time that a clock shows."""

    def __init__(self, text: str) -> None:
        words = ALIASES.get(text, text).lower().split()
        self.seconds_written = len(words) == 6
        if not self.seconds_written:
            words = ["0", *words]
        self.second = numbers(words[0], 0, 59)
        self.minute = numbers(words[1], 0, 59)
        self.hour = numbers(words[2], 0, 23)
        self.day, self.weekday = words[3], words[5]
        self.month = numbers(words[4], 1, 12)
        self.real_time = any(
            item.startswith("*") for word in words[1:3] for item in word.split(",")
        )
        self._days: dict[date, bool] = {}

    def day_matches(self, day: date) -> bool:
        if day not in self._days:
            self._days[day] = day.month in self.month and self._day(day)
        return self._days[day]

    def _day(self, day: date) -> bool:
        by_day = any(
            day.day == calendar.monthrange(day.year, day.month)[1]
            if item == "l"
            else day.day in numbers(item, 1, 31)
            for item in self.day.split(",")
        )
        by_weekday = any(self._on(item, day) for item in self.weekday.split(","))
        if self.day in "*?" or self.weekday in "*?":
            return by_day and by_weekday
        return by_day or by_weekday

    @staticmethod
    def _on(item: str, day: date) -> bool:
        weekday = day.isoweekday() % 7
        if item.startswith("l"):
            leaves = (day + timedelta(days=7)).month != day.month
            return weekday == int(item[1:]) % 7 and leaves
        if "#" in item:
            name, _, nth = item.partition("#")
            number = NAMES[name] if name in NAMES else int(name)
            return weekday == number % 7 and (day.day + 6) // 7 == int(nth)
        # Sunday is both 0 and 7, so try both.
        seven = numbers(item, 0, 6) if "7" not in item.partition("/")[0] else None
        if seven is not None:
            return weekday in seven
        body, _, step = item.partition("/")
        start, dash, end = body.partition("-")
        first = NAMES[start] if start in NAMES else int(start)
        last = (NAMES[end] if end in NAMES else int(end)) if dash else first
        if first == 7 and dash:
            first = 0
        return weekday in {value % 7 for value in range(first, last + 1, int(step or 1))}

    def matches(self, shown: datetime) -> bool:
        return (
            shown.second in self.second
            and shown.minute in self.minute
            and shown.hour in self.hour
            and self.day_matches(shown.date())
        )


def due(text: str, zone: str, start: datetime, end: datetime) -> list[datetime]:
    """Return the due times in (start, end]; all are UTC and whole seconds."""
    expression, tz = Expression(text), ZoneInfo(zone)
    fine = expression.seconds_written
    step = SECOND if fine else MINUTE
    if not fine:
        start = start.replace(second=0)
    highest = _highest_shown(tz, start)
    before = _shown(tz, start)
    found = []
    instant = start
    while instant + step <= end:
        instant += step
        shown = _shown(tz, instant)
        if expression.real_time:
            hit = expression.matches(shown)
        else:
            hit = shown > highest and expression.matches(shown)
            if not hit and shown > before + step:
                hit = any(map(expression.matches, _skipped(before, shown, highest, step)))
        if hit:
            found.append(instant)
        before, highest = shown, max(highest, shown)
    return found


def _shown(tz: ZoneInfo, instant: datetime) -> datetime:
    return instant.astimezone(tz).replace(tzinfo=None, fold=0)


def _highest_shown(tz: ZoneInfo, start: datetime) -> datetime:
    """Return the latest time that the clocks had shown until ``start``, inclusive."""
    highest = _shown(tz, start)
    offset = start.astimezone(tz).utcoffset()
    instant = start.replace(second=0) - LOOK_BACK
    if instant.astimezone(tz).utcoffset() == offset:
        return highest  # no change lies in between: no zone changes twice within hours
    while instant < start:
        highest = max(highest, _shown(tz, min(instant + MINUTE - SECOND, start)))
        instant += MINUTE
    return highest


def _skipped(
    before: datetime, shown: datetime, highest: datetime, step: timedelta
) -> Iterator[datetime]:
    """Yield the times that the clocks jumped over from ``before`` to ``shown`` and never showed."""
    missing = before + step
    while missing < shown:
        if missing > highest:
            yield missing
        missing += step


def days(text: str, start: date, count: int) -> list[date]:
    """Return the days that match the expression, among ``count`` days from ``start``."""
    expression = Expression(text)
    every = (start + timedelta(days=number) for number in range(count))
    return [day for day in every if expression.day_matches(day)]


def changes(zone: str, first_year: int, last_year: int) -> list[datetime]:
    """Return the instants (UTC) at which the zone's offset changes."""
    tz = ZoneInfo(zone)
    instant, end = datetime(first_year, 1, 1, tzinfo=UTC), datetime(last_year, 1, 1, tzinfo=UTC)
    found = []
    offset = instant.astimezone(tz).utcoffset()
    while instant < end:
        after = instant + timedelta(hours=12)
        if after.astimezone(tz).utcoffset() != offset:
            while instant.astimezone(tz).utcoffset() == offset:
                instant += MINUTE
            found.append(instant)
            offset = instant.astimezone(tz).utcoffset()
        instant = after
    return found
