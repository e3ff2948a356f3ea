"""Schedules in plain English, such as `every weekday at 9` or `tomorrow 9am`.

The grammar, in upper or lower case and with any white space:

    SCHEDULE  DAYS TIMES | TIMES DAYS             a cron expression
              DAY TIME | TIME DAY | at TIME       one time; `at TIME` is the next such time
    DAYS      every day | daily | every weekday | weekdays | every weekend | weekends
              every Monday and Friday | Mondays | on Mondays
              every month on the 1st | monthly on the 1st and 15th | on the last day of the month
              1st of every month | every 15th | weekly on Monday
              2nd Tuesday of the month | first and third Monday of every month | every last Friday
    DAY       today | tomorrow | next Monday | on Monday | 2027-01-15
    TIMES     at TIME, TIME and TIME
    TIME      17:00 | 9:30 | 9am | 9:30 pm | noon | midnight | 9 (only after `at`)

A number without am or pm is an hour of the 24-hour clock. `next Monday` and `on Monday` are the
first Monday after today. Daybook refuses phrases that a reader could understand in two ways:

- a day without a time, and a time without a day or `at`
- `Monday at 9` (once or every week?)
- `on the 1st at 9` (once or every month?)
- `2nd Tuesday at 9` (of the month, or every other Tuesday?)
- midnight of a named day (at its start or at its end?)
- `hourly` and `every hour` (on the hour, or from now?)
"""

from __future__ import annotations

import difflib
import re
from datetime import datetime, timedelta
from itertools import pairwise
from typing import NamedTuple

from daybook.errors import InvalidInput

_DAYS = ("sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday")
_EVERY_DAY = {"day": "*", "weekday": "1-5", "weekend": "0,6"}
_REPEATED = {"daily": "day", "weekdays": "weekday", "weekends": "weekend"}

_TIME = re.compile(r"(?:noon|midnight|\d{1,2}(?::\d\d)?(?:[ap]\.?m\.?)?)", re.ASCII)
_CLOCK = re.compile(r"(\d{1,2})(?::(\d\d))?(?:([ap])\.?m\.?)?", re.ASCII)
_ORDINAL = re.compile(r"(\d{1,2})(?:st|nd|rd|th)", re.ASCII)
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_LIKE_A_PHRASE = re.compile(
    r"[a-z]|\d{1,2}(?:st|nd|rd|th)\b|\d{1,2}\s[a-z]{4}|\d{1,2}:\d\d|\d{1,2}\s?[ap]\.?m\b"
    r"|\d{4}-\d\d-\d\d\s(?:at\s)?[\d:]{1,5}(?:\s?[ap]\.?m\.?)?$",
    re.ASCII,
)
_NTH = {"first": 1, "second": 2, "third": 3, "fourth": 4, "fifth": 5}
_COUNTED = re.compile(r"(\d+) ?([a-z]+?)s?", re.ASCII)
_HOURS = re.compile(
    r"every (?P<every>\w+(?: \w+)?) (?:between|from) (?P<first>[\w:.]+) (?:and|to|until|till|-) "
    r"(?P<last>[\w:.]+)"
)
_SEPARATORS = (",", "and")
_UNITS = {"second": "s", "minute": "m", "hour": "h", "day": "d"}
_NUMBER_WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen twenty"
)
_MORE_NUMBERS = {"a": 1, "an": 1, "other": 2, "thirty": 30, "forty": 40, "fifty": 50, "ninety": 90}
_MAX_DAY_LENGTH = 20
"""Number of characters at the start of a word that are compared with known days."""


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
    """Return the cron expression of a phrase, or the only time that the phrase names.

    ``local_now`` is the present wall-clock time in the zone of the schedule, as a naive datetime. A
    time that has passed is returned unchanged. Raise `InvalidInput` naming ``field`` if ``text``
    is not a valid phrase.
    """
    try:
        return _read(_words(text), local_now)
    except _Refused as refused:
        raise InvalidInput(field, f'"{text}" {refused.problem}', refused.hint) from None


class _Refused(Exception):
    def __init__(self, problem: str, hint: str) -> None:
        self.problem = problem
        self.hint = hint


_EXAMPLES = (
    'write "every weekday at 9:00", "every 2h", "tomorrow at 9:00", "in 30m" or a cron expression'
)


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
    if times := _listed(words[start:end]):
        return times, words[end:], start == 1
    start = len(words)
    while start > 0 and _belongs_to_times(words[start - 1]):
        start -= 1
    has_at = start > 0 and words[start - 1] == "at"
    return _listed(words[start:]), words[: start - 1 if has_at else start], has_at


def _belongs_to_times(word: str) -> bool:
    return word in _SEPARATORS or _TIME.fullmatch(word) is not None


def _listed(words: list[str]) -> list[str]:
    return [word for word in words if word not in _SEPARATORS]


def _read(words: list[str], now: datetime) -> str | Once:
    if not _separators_are_between_words(words):
        raise _Refused("is not a schedule", _EXAMPLES)
    if refused := _of_another_kind(words):
        raise refused
    if words[:2] == ["weekly", "on"]:
        words = ["every", *words[2:]]
    times, days, has_at = _split(words) if words else ([], [], False)
    if not times:
        raise _without_time(words, now)
    if not has_at and any(time.isdigit() for time in times):
        raise _Refused("is not a schedule", _EXAMPLES)
    shown = " and ".join(times)
    if in_full := _range_of_days(days):
        raise _Refused("is not a schedule", f'write "{in_full} at {shown}"')
    if not days:
        if not has_at:
            raise _Refused("is ambiguous", f'write "at {shown}" (once) or "every day at {shown}"')
        local = _on(now, _only_time(times))
        return Once(local if local > now else local + timedelta(days=1))
    day = _one_day(days, now)
    if day is not None:
        if times == ["midnight"]:
            tomorrow = day + timedelta(days=1)
            raise _Refused(
                "is ambiguous", f'write "{day:%Y-%m-%d} 0:00" or "{tomorrow:%Y-%m-%d} 0:00"'
            )
        return Once(_on(day, _only_time(times)))
    month_day, weekday = _repeated_days(days)
    return f"{_minutes_and_hours(times)} {month_day} * {weekday}"


def _of_another_kind(words: list[str]) -> _Refused | None:
    """Return the refusal of a phrase that needs a cron expression or a second option, or None."""
    match words:
        case ["quarterly", *_] | ["every", "quarter", *_]:
            hint = 'write the cron expression "0 9 1 1,4,7,10 *" (the 1st at 9:00)'
            return _Refused("is not a schedule", hint)
        case ["yearly" | "annually", *_] | ["every", "year", *_]:
            hint = 'write the cron expression "0 9 1 1 *" (1 January at 9:00)'
            return _Refused("is not a schedule", hint)
    if not (hours := _HOURS.fullmatch(" ".join(words))):
        return None
    interval = hours["every"]
    if match := _COUNTED.fullmatch(interval):
        letters = (each for unit, each in _UNITS.items() if unit.startswith(match[2]))
        interval = match[1] + next(letters, match[2])
    else:
        interval = "1h" if interval == "hour" else interval_in_digits(interval) or interval
    first, last = ("{}:{:02}".format(*_clock(hours[each])) for each in ("first", "last"))
    return _Refused(
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
    adjacent = any(a in _SEPARATORS and b in _SEPARATORS for a, b in pairwise(merged))
    return not adjacent and ends.isdisjoint(_SEPARATORS)


def _without_time(words: list[str], now: datetime) -> _Refused:
    match words:
        case ["hourly"] | ["every", "hour"]:
            hint = 'write "@hourly" (on the hour) or "every 1h" (from now)'
            return _Refused("is ambiguous", hint)
        case ["weekly"] | ["every", "week"]:
            return _Refused("has no day", 'write "every monday at 9:00", or "every 7d" from now')
        case ["monthly"] | ["every", "month"]:
            return _Refused("has no day", 'write "every month on the 1st at 9:00"')
        case ["every", "morning" | "evening" | "night"] | ["nightly"]:
            return _Refused("has no time of day", 'write "every day at 8:00"')
        case ["tonight", *_]:
            return _Refused("has no time of day", 'write "today at 20:00"')
        case []:
            return _Refused("is not a schedule", _EXAMPLES)
        case ["every" | "each", *rest] if digits := interval_in_digits(" ".join(rest)):
            return _Refused("is not a schedule", f'write "every {digits}"')
    if in_full := _range_of_days(words):
        return _Refused("is not a schedule", f'write "{in_full} at 9:00"')
    try:
        if _one_day(words, now) is None:
            _repeated_days(words)
    except _Refused as refused:
        is_ambiguous = refused.problem == "is ambiguous"
        return refused if is_ambiguous else _Refused("is not a schedule", _EXAMPLES)
    text = " ".join(words).replace(" ,", ",")
    return _Refused("has no time of day", f'write "{text} at 9:00"')


def _one_day(words: list[str], now: datetime) -> datetime | None:
    """Return the day that words such as `next monday` name; None for other words.

    Raise `_Refused` for a weekday alone, and for a date that does not exist.
    """
    match words:
        case ["today"]:
            return now
        case ["tomorrow"]:
            return now + timedelta(days=1)
        case ["next" | "on", name] if (number := _weekday(name)) is not None:
            ahead = (number - now.isoweekday()) % 7 or 7
            return now + timedelta(days=ahead)
        case [name] if _weekday(name) is not None:
            raise _Refused("is ambiguous", f'write "next {name} …" (once) or "every {name} …"')
        case [iso] | ["on", iso] if _DATE.fullmatch(iso):
            try:
                return datetime.fromisoformat(iso)
            except ValueError as error:
                raise _Refused(f"does not exist: {error}", "use a date that exists") from None
    return None


def _range_of_days(words: list[str]) -> str:
    """Return `every weekday` for `monday to friday` or `mon-fri`; empty for other words."""
    rest = " ".join(words).replace("-", " - ").split()
    while rest[:1] and rest[0] in ("every", "each", "on", "from"):
        rest = rest[1:]
    match rest:
        case [one, "to" | "through" | "until" | "till" | "-", other]:
            first, last = [_weekday(name) or _weekday(name[:-1]) for name in (one, other)]
        case _:
            return ""
    if first is None or last is None:
        return ""
    if (first, last) == (1, 5):
        return "every weekday"
    numbers = [first, *((first + more) % 7 for more in range(1, (last - first) % 7 + 1))]
    names = [_DAYS[number % 7] for number in numbers]
    return f"every {', '.join(names[:-1])} and {names[-1]}" if names[1:] else f"every {names[0]}"


def _repeated_days(words: list[str]) -> tuple[str, str]:
    """Return the fields `day of month` and `weekday` of a cron expression.

    Raise `_Refused` for words that name no repeated days.
    """
    if month_days := _month_days(words):
        return month_days, "*"
    if weekdays := _weekdays_of_month(words):
        return "*", weekdays
    is_repeated = words[0] in ("every", "each")
    names = _listed(words[1:] if words[0] in ("every", "each", "on") else words)
    if not names:
        raise _Refused("is not a schedule", _EXAMPLES)
    if len(names) == 1:
        single = names[0] if is_repeated else _REPEATED.get(names[0], "")
        if single in _EVERY_DAY:
            return "*", _EVERY_DAY[single]
    numbers = []
    for name in names:
        number = _weekday(name)  # also for an abbreviation such as `tues`
        plural = number is None and name.endswith("s")
        if plural:
            number = _weekday(name[:-1])
        if number is None:
            raise _unknown_day(words, name)
        if not (plural or is_repeated):
            raise _Refused("is ambiguous", f'write "next {name} …" (once) or "every {name} …"')
        numbers.append(number)
    # Monday first, as people list them; cron counts Sunday as 0.
    return "*", ",".join(str(number % 7) for number in sorted(set(numbers)))


def _month_days(words: list[str]) -> str:
    """Return `1,15,L` for `every month on the 1st, 15th and last day`; empty for other words.

    Raise `_Refused` for an ambiguous phrase and an invalid day.
    """
    rest = list(words)
    for optional in (["every", "month"], ["monthly"], ["every"], ["on"]):
        if rest[: len(optional)] == optional:
            rest = rest[len(optional) :]
    is_repeated = words[0] in ("every", "monthly")
    if len(rest) > 3 and rest[-3] == "of" and rest[-2] in ("the", "every", "each"):
        is_repeated = is_repeated or rest[-1] == "month"
        rest = rest[:-3] if rest[-1] == "month" else rest
    numbers: set[int] = set()
    last = False
    listed = [word for word in _listed(rest) if word != "the"]
    while listed:
        if listed[:2] == ["last", "day"]:
            last, listed = True, listed[2:]
        elif match := _ORDINAL.fullmatch(listed[0]):
            numbers.add(int(match[1]))
            listed = listed[1:]
        else:
            return ""
    if not listed and not is_repeated and (numbers or last):
        days = " ".join(rest).replace(" ,", ",").removeprefix("the ")
        raise _Refused("is ambiguous", f'write "every month on the {days} …", or a date (once)')
    if not all(1 <= number <= 31 for number in numbers):
        raise _Refused("has an invalid day of the month", "use the 1st to the 31st")
    return ",".join([*map(str, sorted(numbers)), *(["L"] if last else [])])


def _weekdays_of_month(words: list[str]) -> str:
    """Return `2#2` for `2nd Tuesday of the month`, `L5` for the last Friday; else an empty text.

    Raise `_Refused` for an ambiguous phrase.
    """
    rest = [word for word in _listed(words) if word != "on"]
    is_repeated = rest[:1] in (["every"], ["each"], ["monthly"])
    rest = [word for word in (rest[1:] if is_repeated else rest) if word != "the"]
    of_month = rest[-2:] == ["of", "month"] or (
        len(rest) > 3 and rest[-3] == "of" and rest[-2] in ("every", "each") and rest[-1] == "month"
    )
    if of_month:
        rest = rest[: rest.index("of")]
    *ordinals, name = rest or [""]
    weekday = _weekday(name)
    if weekday is None or not ordinals:
        return ""
    found = []
    for ordinal in ordinals:
        match = _ORDINAL.fullmatch(ordinal)
        number = int(match[1]) if match else _NTH.get(ordinal, 0)
        if ordinal == "last":
            found.append(f"L{weekday % 7}")
        elif 1 <= number <= 5:
            found.append(f"{weekday % 7}#{number}")
        else:
            return ""
    if not of_month and not (is_repeated and ordinals == ["last"]):
        shown = " and ".join(ordinals)
        raise _Refused(
            "is ambiguous", f'write "{shown} {name} of every month …" or "every {name} …"'
        )
    return ",".join(found)


def _unknown_day(words: list[str], name: str) -> _Refused:
    known = [*_DAYS, *_EVERY_DAY, *_REPEATED, "today", "tomorrow"]
    if any(word[0].isdigit() for word in words[:2]):
        return _Refused(
            "combines an interval with a time of day",
            'write days, such as "every day at 9:00", or an interval alone, such as "every 2h"',
        )
    near = difflib.get_close_matches(name[:_MAX_DAY_LENGTH], known, n=1, cutoff=0.75)
    if near and name not in known:
        return _Refused(f'has the unknown day "{name}"', f"did you mean {near[0]}?")
    return _Refused("is not a schedule", _EXAMPLES)


def _weekday(name: str) -> int | None:
    """Return 1 for Monday to 7 for Sunday, also for `mon` or `thurs`; None for any other word."""
    for number, day in enumerate(_DAYS):
        if len(name) >= 3 and day.startswith(name):
            return number or 7
    return None


def _minutes_and_hours(times: list[str]) -> str:
    given = {_clock(time) for time in times}
    hours = sorted({hour for hour, _ in given})
    minutes = sorted({minute for _, minute in given})
    if len(given) != len(hours) * len(minutes):
        raise _Refused(
            "has times that do not fit into one cron expression", "add a job for each of the times"
        )
    return f"{','.join(map(str, minutes))} {','.join(map(str, hours))}"


def _only_time(times: list[str]) -> tuple[int, int]:
    if len(times) > 1:
        raise _Refused("is due once, but has several times", "add a job for each of the times")
    return _clock(times[0])


def _clock(time: str) -> tuple[int, int]:
    """Return the hour and the minute of a time of day; raise `_Refused` for an invalid time."""
    if time in ("noon", "midnight"):
        return (12 if time == "noon" else 0), 0
    match = _CLOCK.fullmatch(time)
    assert match is not None, "the text of a phrase was matched before"
    hour, minute = int(match[1]), int(match[2] or 0)
    if match[3]:
        if not 1 <= hour <= 12:
            raise _Refused(f'has the invalid time "{time}"', "use 1am to 12pm, or 0:00 to 23:59")
        hour = hour % 12 + (12 if match[3] == "p" else 0)
    if hour > 23 or minute > 59:
        raise _Refused(f'has the invalid time "{time}"', "use 0:00 to 23:59, or 9am")
    return hour, minute


def _on(day: datetime, clock: tuple[int, int]) -> datetime:
    return day.replace(hour=clock[0], minute=clock[1], second=0, microsecond=0)
