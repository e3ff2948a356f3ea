"""Schedules in plain English, such as `every weekday at 9` or `tomorrow 9am`.

The grammar, in upper or lower case and with any white space:

    SCHEDULE  DAYS TIMES | TIMES DAYS             a cron expression
              CLOCK | CLOCK DAYS                  a cron expression
              DAY TIME | TIME DAY | at TIME       one time; `at TIME` is the next such time
    DAYS      every day | daily | every weekday | weekdays | every weekend | weekends
              every Monday and Friday | Mondays | on Mondays
              every month on the 1st | monthly on the 1st and 15th | on the last day of the month
              1st of every month | every 15th | weekly on Monday
              from the 1st to the 7th of the month
              2nd Tuesday of the month | first and third Monday of every month | every last Friday
              on the first Monday and the second Tuesday of the month
              on the 13th of the month or on Fridays
              on Mondays of every January and July | on the 1st of every January
    CLOCK     every 15 minutes of the hour | every minute of the hour at second 30
              every 15 minutes of the hour from 9:00 to 17:45 | every 10 seconds of the minute
              every hour at :05 and :20 | every hour from 9:00 to 17:00 | every 2 hours from 0:30
    DAY       today | tomorrow | next Monday | on Monday | 2027-01-15 | on Friday 15 January 2027
    TIMES     at TIME, TIME and TIME
    TIME      17:00 | 9:30 | 9am | 9:30 pm | 9:30:15 | noon | midnight | 9 (only after `at`)

A number without am or pm is an hour of the 24-hour clock. `next Monday` and `on Monday` are the
first Monday after today. Daybook refuses phrases that a reader could understand in two ways:

- a day without a time, and a time without a day or `at`
- `Monday at 9` (once or every week?)
- `on the 1st at 9` (once or every month?)
- `on the 1st of January at 9` (once or every year?)
- `2nd Tuesday at 9` (of the month, or every other Tuesday?)
- midnight of a named day (at its start or at its end?)
- `hourly` and `every hour` (on the hour, or from now?)

Every description that `descriptions` writes for a cron expression is such a phrase.

No library parses these phrases: libraries for English times guess the missing parts, and a wrong
guess runs a job at the wrong hour.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime, timedelta
from itertools import pairwise
from typing import NamedTuple

from daybook.errors import InvalidInput
from daybook.schedules.days import (
    EXAMPLES,
    SEPARATORS,
    WEEKDAYS,
    Days,
    Unreadable,
    as_text,
    listed,
    month_number,
    range_of_days,
    repeated_days,
    weekday_number,
)

_TIME = re.compile(r"(?:noon|midnight|\d{1,2}(?::\d\d){0,2}(?:[ap]\.?m\.?)?)", re.ASCII)
_CLOCK = re.compile(r"(\d{1,2})(?::(\d\d))?(?::(\d\d))?(?:([ap])\.?m\.?)?", re.ASCII)
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_LIKE_A_PHRASE = re.compile(
    r"[a-z]|\d{1,2}(?:st|nd|rd|th)\b|\d{1,2}\s[a-z]{3}|\d{1,2}:\d\d|\d{1,2}\s?[ap]\.?m\b"
    r"|\d{4}-\d\d-\d\d\s(?:at\s)?[\d:]{1,5}(?:\s?[ap]\.?m\.?)?$",
    re.ASCII,
)
_COUNTED = re.compile(r"(\d+) ?([a-z]+?)s?", re.ASCII)
_HOURS = re.compile(
    r"every (?P<every>\w+(?: \w+)?) (?:between|from) (?P<first>[\w:.]+) (?:and|to|until|till|-) "
    r"(?P<last>[\w:.]+)"
)
_UNITS = {"second": "s", "minute": "m", "hour": "h", "day": "d"}
_NUMBER_WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen twenty"
)
_MORE_NUMBERS = {"a": 1, "an": 1, "other": 2, "thirty": 30, "forty": 40, "fifty": 50, "ninety": 90}


class Once(NamedTuple):
    """A wall-clock time at which a schedule is due once."""

    local: datetime


def is_like_one(text: str) -> bool:
    """Return whether a text looks like a phrase, valid or not; no cron expression does."""
    return _LIKE_A_PHRASE.match(text.lower()) is not None


def interval_in_digits(text: str) -> str:
    """Return `2h` for `two hours`, `1m` for `minute` or `a minute`, and `30m` for `half an hour`.

    Return an empty text for any other text, including an interval in digits.
    """
    numbers = _NUMBER_WORDS.split()
    match text.lower().split():
        case ["half", "hour"] | ["half", "an", "hour"]:
            return "30m"
        case ["second" | "minute" as unit]:
            return f"1{_UNITS[unit]}"
        case [word, unit]:
            number = numbers.index(word) if word in numbers else _MORE_NUMBERS.get(word, 0)
            unit = unit.removesuffix("s")
            if number and unit == "week":
                return f"{7 * number}d"
            if number and unit in _UNITS:
                return f"{number}{_UNITS[unit]}"
    return ""


def is_time(text: str) -> bool:
    """Return whether a text is a time of day, such as `9am`, `17:00` or `9`."""
    return _TIME.fullmatch(" ".join(_words(text))) is not None


def read(text: str, local_now: datetime, field: str = "schedule") -> str | Once:
    """Return the cron expression of a phrase, or its only time, even one that has passed.

    ``local_now`` is the naive wall-clock time in the schedule's zone. Raise `InvalidInput` naming
    ``field`` if ``text`` is not a valid phrase.
    """
    try:
        return _read(_words(text), local_now)
    except Unreadable as refused:
        raise InvalidInput(field, f'"{text}" {refused.problem}', refused.hint) from None


def _words(text: str) -> list[str]:
    """Return the words in lower case; a comma is a word, and `9 am` becomes the word `9am`."""
    words: list[str] = []
    for word in text.lower().replace(",", " , ").split():
        if word in ("am", "pm", "a.m", "p.m", "a.m.", "p.m.") and words and words[-1][-1].isdigit():
            words[-1] += word
        else:
            words.append(word)
    return words


def _split(words: list[str]) -> tuple[list[str], list[str], bool]:
    """Return the times at the start or end, the other words, and whether `at` precedes times."""
    start = 1 if words[0] == "at" else 0
    end = start
    while end < len(words) and _belongs_to_times(words[end]):
        end += 1
    times = listed(words[start:end])
    begins_with_day = start == 0 and words[0].isdigit()  # `1 December 2026 at 9`
    if times and not begins_with_day:
        return times, words[end:], start == 1
    start = len(words)
    while start > 0 and _belongs_to_times(words[start - 1]):
        start -= 1
    has_at = start > 0 and words[start - 1] == "at"
    return listed(words[start:]), words[: start - 1 if has_at else start], has_at


def _belongs_to_times(word: str) -> bool:
    return word in SEPARATORS or _TIME.fullmatch(word) is not None


def _read(words: list[str], now: datetime) -> str | Once:
    if not _separators_are_between_words(words):
        raise Unreadable("is not a schedule", EXAMPLES)
    if expr := _by_the_clock(words):
        return expr
    if refused := _of_another_kind(words):
        raise refused
    if words[:2] == ["weekly", "on"]:
        words = ["every", *words[2:]]
    times, days, has_at = _split(words) if words else ([], [], False)
    if not times:
        raise _without_time(words, now)
    if not has_at and any(time.isdigit() for time in times):
        raise Unreadable("is not a schedule", EXAMPLES)
    shown = " and ".join(times)
    if in_full := range_of_days(days):
        raise Unreadable("is not a schedule", f'write "{in_full} at {shown}"')
    if not days:
        if not has_at:
            raise Unreadable("is ambiguous", f'write "at {shown}" (once) or "every day at {shown}"')
        local = _on(now, _only_time(times))
        return Once(local if local > now else local + timedelta(days=1))
    day = _one_day(days, now)
    if day is not None:
        if times == ["midnight"]:
            tomorrow = day + timedelta(days=1)
            raise Unreadable(
                "is ambiguous", f'write "{day:%Y-%m-%d} 0:00" or "{tomorrow:%Y-%m-%d} 0:00"'
            )
        return Once(_on(day, _only_time(times)))
    return _expression(_fixed_times(times), repeated_days(days))


def _expression(times: str, days: Days) -> str:
    """Return a cron expression; ``times`` are the fields second, minute and hour."""
    return f"{times.removeprefix('0 ')} {days.day} {days.month} {days.weekday}"


def _every_second(step: str) -> str:
    return f"{_step(step, 60, 'second')} * *"


def _every_minute(step: str, first: str, last: str, second: str) -> str:
    field = _step(step, 60, "minute")
    if not first:
        return f"{int(second or 0)} {field} *"
    (start, *zero), (end, *most) = _clock(first), _clock(last)
    last_minute = 60 - int(step or 1)
    if (zero, most) != ([0, 0], [last_minute, 0]) or start > end:
        raise Unreadable("has other times", f'write "from {start}:00 to {end}:{last_minute:02}"')
    return f"0 {field} {start if start == end else f'{start}-{end}'}"


def _every_hour(minutes: str) -> str:
    past = {_clock(f"0{each}")[1] for each in listed(_words(minutes))}
    return f"0 {','.join(map(str, sorted(past)))} *"


def _hour_by_hour(first: str, last: str) -> str:
    (start, *past), (end, *past_last) = _clock(first), _clock(last)
    if past != past_last or start >= end:
        hint = 'write a range within the day, such as "every hour from 9:15 to 17:15"'
        raise Unreadable("has other times", hint)
    return f"{past[1]} {past[0]} {start}-{end}"


def _every_hours(step: str, first: str) -> str:
    field = _step(step, 24, "hour")
    start, minute, second = _clock(first)
    if start:
        hint = f'write "every {step} hours from 0:{minute:02}", or "every {step}h" (from now)'
        raise Unreadable("is ambiguous", hint)
    return f"{second} {minute} {field}"


_TIME_OF_DAY = _TIME.pattern
_CLOCK_INTERVALS: tuple[tuple[str, Callable[..., str]], ...] = (
    (r"(?:(\d{1,2}) )?seconds? of the minute", _every_second),
    (
        rf"(?:(\d{{1,2}}) )?minutes? of the hour(?: from ({_TIME_OF_DAY}) to ({_TIME_OF_DAY})"
        r"| at second ([0-5]?\d))?",
        _every_minute,
    ),
    (r"hour at (:\d\d(?:(?:,|,? and) :\d\d)*)", _every_hour),
    (rf"hour from ({_TIME_OF_DAY}) to ({_TIME_OF_DAY})", _hour_by_hour),
    (rf"(\d{{1,2}}) hours from ({_TIME_OF_DAY})", _every_hours),
)
"""Intervals that the clock determines, and functions that return the fields of their times.

A function gets the texts of the groups, and returns the fields second, minute and hour.
"""


def _by_the_clock(words: list[str]) -> str | None:
    """Return the cron expression of a phrase such as `every 15 minutes of the hour on Mondays`."""
    for pattern, times in _CLOCK_INTERVALS:
        if match := re.fullmatch(rf"every {pattern}(?: (?P<days>.+))?", as_text(words), re.ASCII):
            *groups, days = (each or "" for each in match.groups())
            return _expression(times(*groups), repeated_days(_words(days)) if days else Days())
    return None


def _step(step: str, size: int, unit: str) -> str:
    number = int(step or 1)
    if not number or number >= size or size % number:
        raise Unreadable(
            f"needs a number that divides {size}",
            f'write "every {number or 1}{unit[0]}" (from now)',
        )
    return "*" if number == 1 else f"*/{number}"


def _of_another_kind(words: list[str]) -> Unreadable | None:
    """Return the refusal of a phrase that needs a cron expression or a second option, or None."""
    match words:
        case ["every" | "each", time, *days] if _TIME.fullmatch(time) and not time.isdigit():
            hint = f'write "{as_text(days) or "every day"} at {time}"'
            return Unreadable("is not a schedule", hint)
        case ["quarterly", *_] | ["every", "quarter", *_]:
            hint = 'write the cron expression "0 9 1 1,4,7,10 *" (the 1st at 9:00)'
            return Unreadable("is not a schedule", hint)
        case ["yearly" | "annually", *_] | ["every", "year", *_]:
            hint = 'write the cron expression "0 9 1 1 *" (1 January at 9:00)'
            return Unreadable("is not a schedule", hint)
    if not (hours := _HOURS.fullmatch(" ".join(words))):
        return None
    interval = hours["every"]
    if match := _COUNTED.fullmatch(interval):
        letters = (each for unit, each in _UNITS.items() if unit.startswith(match[2]))
        interval = match[1] + next(letters, match[2])
    else:
        interval = "1h" if interval == "hour" else interval_in_digits(interval) or interval
    first, last = ("{}:{:02}".format(*_clock(hours[each])[:2]) for each in ("first", "last"))
    return Unreadable(
        "combines an interval with hours of the day",
        f'write "every {interval}", and active_hours {first}-{last}',
    )


def _separators_are_between_words(words: list[str]) -> bool:
    """Return whether each `,`, `and` or `, and` stands between two other words."""
    merged = [
        word
        for word, before in zip(words, ["", *words], strict=False)
        if (before, word) != (",", "and")
    ]
    ends = {*merged[:1], *merged[-1:]}
    adjacent = any(a in SEPARATORS and b in SEPARATORS for a, b in pairwise(merged))
    return not adjacent and ends.isdisjoint(SEPARATORS)


def _without_time(words: list[str], now: datetime) -> Unreadable:
    match words:
        case ["hourly"] | ["every", "hour"]:
            hint = 'write "@hourly" (on the hour) or "every 1h" (from now)'
            return Unreadable("is ambiguous", hint)
        case ["weekly"] | ["every", "week"]:
            return Unreadable("has no day", 'write "every monday at 9:00", or "every 7d" from now')
        case ["monthly"] | ["every", "month"]:
            return Unreadable("has no day", 'write "every month on the 1st at 9:00"')
        case ["every", "morning" | "evening" | "night"] | ["nightly"]:
            return Unreadable("has no time of day", 'write "every day at 8:00"')
        case ["tonight", *_]:
            return Unreadable("has no time of day", 'write "today at 20:00"')
        case []:
            return Unreadable("is not a schedule", EXAMPLES)
        case ["every" | "each", *rest] if digits := interval_in_digits(" ".join(rest)):
            return Unreadable("is not a schedule", f'write "every {digits}"')
    if in_full := range_of_days(words):
        return Unreadable("is not a schedule", f'write "{in_full} at 9:00"')
    try:
        if _one_day(words, now) is None:
            repeated_days(words)
    except Unreadable as refused:
        is_ambiguous = refused.problem == "is ambiguous"
        return refused if is_ambiguous else Unreadable("is not a schedule", EXAMPLES)
    text = " ".join(words).replace(" ,", ",")
    return Unreadable("has no time of day", f'write "{text} at 9:00"')


def _one_day(words: list[str], now: datetime) -> datetime | None:
    """Return the day that words such as `next monday` name; None for other words.

    Raise `Unreadable` for a weekday alone, and for a date that does not exist.
    """
    match words:
        case ["today"]:
            return now
        case ["tomorrow"]:
            return now + timedelta(days=1)
        case ["next" | "on", name] if (number := weekday_number(name)) is not None:
            ahead = (number - now.isoweekday()) % 7 or 7
            return now + timedelta(days=ahead)
        case [name] if weekday_number(name) is not None:
            raise Unreadable("is ambiguous", f'write "next {name} …" (once) or "every {name} …"')
        case [iso] | ["on", iso] if _DATE.fullmatch(iso):
            try:
                return datetime.fromisoformat(iso)
            except ValueError as error:
                raise Unreadable(f"does not exist: {error}", "use a date that exists") from None
        case [*_, day, name, year] if day.isdecimal() and (month := month_number(name)):
            return _date(words, day, month, year)
    return None


def _date(words: list[str], day: str, month: int, year: str) -> datetime | None:
    """Return the day of `on Friday 15 January 2027`; None for other words."""
    weekday = next((weekday_number(word) for word in words[:-3] if word != "on"), None)
    is_date = re.fullmatch(r"(?:on )?(?:[a-z]+ )?\d{1,2} [a-z]+ \d{4}", " ".join(words), re.ASCII)
    if not is_date or (weekday is None and len(words) > 3 + (words[0] == "on")):
        return None
    try:
        found = datetime(int(year), month, int(day))  # noqa: DTZ001  wall-clock time without a zone
    except ValueError as error:
        raise Unreadable(f"does not exist: {error}", "use a date that exists") from None
    if weekday not in (None, found.isoweekday()):
        name = WEEKDAYS[found.isoweekday() % 7]
        raise Unreadable(f"does not exist: {day} {words[-2]} {year} is a {name}", "correct the day")
    return found


def _fixed_times(times: list[str]) -> str:
    """Return the fields second, minute and hour of a cron expression."""
    given = {_clock(time) for time in times}
    hours, minutes, seconds = (sorted({time[unit] for time in given}) for unit in range(3))
    if len(given) != len(hours) * len(minutes) * len(seconds):
        raise Unreadable(
            "has times that do not fit into one cron expression", "add a job for each of the times"
        )
    return " ".join(",".join(map(str, values)) for values in (seconds, minutes, hours))


def _only_time(times: list[str]) -> tuple[int, int, int]:
    if len(times) > 1:
        raise Unreadable("is due once, but has several times", "add a job for each of the times")
    return _clock(times[0])


def _clock(time: str) -> tuple[int, int, int]:
    """Return the hour, minute and second of a time; raise `Unreadable` for an invalid time."""
    if time in ("noon", "midnight"):
        return (12 if time == "noon" else 0), 0, 0
    match = _CLOCK.fullmatch(time)
    assert match is not None, "the text of a phrase was matched before"
    hour, minute, second = (int(match[group] or 0) for group in (1, 2, 3))
    if match[4]:
        if not 1 <= hour <= 12:
            raise Unreadable(f'has the invalid time "{time}"', "use 1am to 12pm, or 0:00 to 23:59")
        hour = hour % 12 + (12 if match[4] == "p" else 0)
    if hour > 23 or minute > 59 or second > 59:
        raise Unreadable(f'has the invalid time "{time}"', "use 0:00 to 23:59, or 9am")
    return hour, minute, second


def _on(day: datetime, clock: tuple[int, int, int]) -> datetime:
    return day.replace(hour=clock[0], minute=clock[1], second=clock[2], microsecond=0)
