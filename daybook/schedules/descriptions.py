"""Times in English: "at 09:00 on weekdays", "14:30 on Friday 15 January 2027".

This module describes common shapes of cron expressions in words. It quotes an expression that has
no exact and readable description (`cron "…"`). `schedule.parse` reads every description as a
schedule with the same due times, so a user or an agent can copy it. Names of days and months are
English in any locale.
"""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache

from daybook.errors import InvalidInput
from daybook.schedules import cron, phrases
from daybook.schedules.cron import CronField, CronFields
from daybook.schedules.zones import display_zone, to_instant, wall_time

WEEKDAYS = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")
MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)
_NTH = {1: "first", 2: "second", 3: "third", 4: "fourth", 5: "fifth", -1: "last"}
_MOST_TIMES = 6
_MOST_DAYS = 5
_ANY_TIME = datetime(2000, 1, 1)  # noqa: DTZ001  wall-clock time without a zone


class _NoDescription(Exception):
    """The expression has no description that is exact and readable."""


@lru_cache(maxsize=512)
def cron_in_words(expr: str) -> str:
    """Describe when a cron expression is due; without a description, quote the expression.

    The result is cached, because many listed jobs share an expression. Raise `InvalidInput` for an
    invalid expression.
    """
    fields = cron.read_fields(expr)
    quoted = f'cron "{expr}"'
    try:
        words = _cron(fields)
        again = phrases.read(words, _ANY_TIME)
    except (_NoDescription, InvalidInput):
        return quoted
    # Words can lose a difference: `5,*/20 9` is real time, and `0,5,20,40 9` is not.
    is_exact = isinstance(again, str) and cron.read_fields(again).meaning == fields.meaning
    return words if is_exact else quoted


def instant_in_words(instant: datetime, timezone: str) -> str:
    """Return an instant in words: "14:30 on Friday 15 January 2027, Europe/Berlin".

    If the clocks show this time twice, and this is the second time, return its RFC 3339 form.
    """
    tz = display_zone(timezone)
    local = wall_time(instant, tz)
    if to_instant(local, tz) != instant:
        return f"{instant.astimezone(tz).isoformat()}, {timezone}"
    time = f"{local:%H:%M:%S}" if local.second else f"{local:%H:%M}"
    day = f"{WEEKDAYS[local.isoweekday() % 7]} {local.day} {MONTHS[local.month - 1]} {local.year}"
    return f"{time} on {day}, {timezone}"


def _cron(fields: CronFields) -> str:
    days = _days(fields)
    every = _every(fields)
    if every is not None:
        return f"{every} {days}".rstrip()
    return f"{_times(fields)} {days or 'every day'}"


def _every(fields: CronFields) -> str | None:
    """Return the interval, such as "every 2 hours from 00:05"; None for fixed times of the day.

    "of the hour" and "of the minute" distinguish it from an interval that counts from now. Raise
    `_NoDescription`.
    """
    second, minute, hour = fields.second, fields.minute, fields.hour
    if second.step is not None:
        if minute.step != 1 or hour.step != 1:
            raise _NoDescription
        return f"{_interval(second.step, 60, 'second')} of the minute"
    at_second = _single_value(second)
    if minute.step is not None:
        text = f"{_interval(minute.step, 60, 'minute')} of the hour"
        if hour.step == 1:
            return text + (f" at second {at_second}" if at_second else "")
        start, end = _hour_range(hour)
        if at_second:
            raise _NoDescription
        last = max(minute.values)
        return f"{text} from {start:02}:00 to {end:02}:{last:02}"
    if hour.step is None and len(hour.values) < 3:
        return None
    if hour.step == 1:
        if at_second or len(minute.values) > _MOST_TIMES:
            raise _NoDescription
        return f"every hour at {_join([f':{value:02}' for value in sorted(minute.values)])}"
    at_minute = _single_value(minute)
    tail = f":{at_minute:02}" + (f":{at_second:02}" if at_second else "")
    if hour.step is not None:
        return f"{_interval(hour.step, 24, 'hour')} from 00{tail}"
    if not _is_consecutive(sorted(hour.values)):
        return None
    start, end = _hour_range(hour)
    return f"every hour from {start:02}{tail} to {end:02}{tail}"


def _interval(step: int, size: int, unit: str) -> str:
    if size % step or step == size:  # the last interval of each round would be shorter
        raise _NoDescription
    return f"every {unit}" if step == 1 else f"every {step} {unit}s"


def _times(fields: CronFields) -> str:
    second = _single_value(fields.second)
    if len(fields.hour.values) * len(fields.minute.values) > _MOST_TIMES:
        raise _NoDescription
    tail = f":{second:02}" if second else ""
    return "at " + _join(
        [
            f"{hour:02}:{minute:02}{tail}"
            for hour in sorted(fields.hour.values)
            for minute in sorted(fields.minute.values)
        ]
    )


def _days(fields: CronFields) -> str:
    """Return the days and months as text, or "" for every day.

    For example "on weekdays", "on the 1st of every January", "on the 13th of the month or on
    Fridays". Raise `_NoDescription`.
    """
    months = "" if fields.month.step == 1 else f" of every {_months(fields.month)}"
    of = months or " of the month"
    day = "" if fields.day.free else f"{_month_days(fields.day)}{of}"
    if fields.weekday.free:
        return day or (f"every day{months}" if months else "")
    if fields.weekday.nth:
        return f"on {_nth_weekdays(fields.weekday)}{of}"
    weekday = f"on {_weekdays(fields.weekday)}"
    if day and months:
        raise _NoDescription  # the scope of the months would be ambiguous
    return f"{day} or {weekday}" if day else f"{weekday}{months}"


def _weekdays(field: CronField) -> str:
    if field.values == {1, 2, 3, 4, 5}:
        return "weekdays"
    if field.values == {0, 6}:
        return "weekends"
    if len(field.values) > _MOST_DAYS:
        raise _NoDescription
    ordered = sorted(field.values, key=lambda day: (day - 1) % 7)  # Monday first
    return _join([f"{WEEKDAYS[day]}s" for day in ordered])


def _nth_weekdays(field: CronField) -> str:
    if len(field.nth) > _MOST_DAYS:
        raise _NoDescription
    pairs = sorted(field.nth, key=lambda pair: (pair[1] % 7, (pair[0] - 1) % 7))
    return _join([f"the {_NTH[nth]} {WEEKDAYS[day]}" for day, nth in pairs])


def _month_days(field: CronField) -> str:
    days = sorted(field.values)
    if field.last:
        if len(days) >= _MOST_DAYS:
            raise _NoDescription
        return "on " + _join([f"the {_ordinal(day)}" for day in days] + ["the last day"])
    if len(days) > 3 and _is_consecutive(days) and len(days) < 31:
        return f"from the {_ordinal(days[0])} to the {_ordinal(days[-1])}"
    if len(days) > _MOST_DAYS:
        raise _NoDescription
    return "on " + _join([f"the {_ordinal(day)}" for day in days])


def _months(field: CronField) -> str:
    months = sorted(field.values)
    if len(months) > _MOST_DAYS:
        raise _NoDescription
    return _join([MONTHS[month - 1] for month in months])


def _hour_range(hour: CronField) -> tuple[int, int]:
    hours = sorted(hour.values)
    if not _is_consecutive(hours):
        raise _NoDescription
    return hours[0], hours[-1]


def _is_consecutive(values: list[int]) -> bool:
    return values == list(range(values[0], values[0] + len(values)))


def _single_value(field: CronField) -> int:
    if len(field.values) != 1 or field.step is not None:
        raise _NoDescription
    return next(iter(field.values))


def _ordinal(number: int) -> str:
    tail = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{'th' if 10 < number < 14 else tail}"


def _join(words: list[str]) -> str:
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"
