"""The days of a phrase in English, such as `on the 1st of every January`, as fields of cron.

`phrases` documents the grammar. A phrase is a list of words in lower case, in which a comma is a
word.
"""

from __future__ import annotations

import difflib
import re
from typing import NamedTuple

from daybook.schedules.cron import with_hyphens

WEEKDAYS = ("sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday")
MONTHS = (
    *("january", "february", "march", "april", "may", "june"),
    *("july", "august", "september", "october", "november", "december"),
)
SEPARATORS = (",", "and")
EXAMPLES = (
    'write "every weekday at 9:00", "every 2h", "tomorrow at 9:00", "in 30m" or a cron expression'
)

_EVERY_DAY = {"day": "*", "weekday": "1-5", "weekend": "0,6"}
_REPEATED = {"daily": "day", "weekdays": "weekday", "weekends": "weekend"}
_ORDINAL = re.compile(r"(\d{1,2})(?:st|nd|rd|th)", re.ASCII)
_RANGE = re.compile(r"from (\d{1,2})(?:st|nd|rd|th) to (\d{1,2})(?:st|nd|rd|th)(?: |$)", re.ASCII)
_NTH = {"first": 1, "second": 2, "third": 3, "fourth": 4, "fifth": 5}
_MAX_DAY_LENGTH = 20
"""Number of characters at the start of a word that are compared with known days."""


class Unreadable(Exception):
    """A phrase has no meaning, or two; ``hint`` says what to write."""

    def __init__(self, problem: str, hint: str) -> None:
        self.problem = problem
        self.hint = hint


class Days(NamedTuple):
    """The fields of a cron expression that select days."""

    day: str = "*"
    month: str = "*"
    weekday: str = "*"


def weekday_number(name: str) -> int | None:
    """Return 1 for Monday to 7 for Sunday, also for `mon` or `thurs`; None for any other word."""
    number = _index(name, WEEKDAYS)
    return number or 7 if number is not None else None


def month_number(name: str) -> int | None:
    """Return 1 for January to 12 for December, also for `jan`; None for any other word."""
    number = _index(name, MONTHS)
    return number + 1 if number is not None else None


def _index(name: str, names: tuple[str, ...]) -> int | None:
    found = (number for number, full in enumerate(names) if full.startswith(name))
    return next(found, None) if len(name) >= 3 else None


def listed(words: list[str]) -> list[str]:
    """Return the words without separators."""
    return [word for word in words if word not in SEPARATORS]


def as_text(words: list[str]) -> str:
    """Return the words as a text, with each comma directly after a word."""
    return " ".join(words).replace(" ,", ",")


def range_of_days(words: list[str]) -> str:
    """Return `every weekday` for `monday to friday` or `mon-fri`; empty for other words."""
    rest = with_hyphens(" ".join(words)).replace("-", " - ").split()
    while rest[:1] and rest[0] in ("every", "each", "on", "from"):
        rest = rest[1:]
    match rest:
        case [one, "to" | "through" | "until" | "till" | "-", other]:
            first, last = [
                weekday_number(name) or weekday_number(name[:-1]) for name in (one, other)
            ]
        case _:
            return ""
    if first is None or last is None:
        return ""
    if (first, last) == (1, 5):
        return "every weekday"
    numbers = [first, *((first + more) % 7 for more in range(1, (last - first) % 7 + 1))]
    names = [WEEKDAYS[number % 7] for number in numbers]
    return f"every {', '.join(names[:-1])} and {names[-1]}" if names[1:] else f"every {names[0]}"


def repeated_days(words: list[str]) -> Days:
    """Return the fields for words that name repeated days.

    Raise `Unreadable` for words that name none, and for ambiguous words.
    """
    words, months = _without_months(words)
    if "or" in words:
        middle = words.index("or")
        one, other = _of_any_month(words[:middle]), _of_any_month(words[middle + 1 :])
        if months or "*" in (one.day, other.weekday) or "*" not in (one.weekday, other.day):
            raise Unreadable("is not a schedule", EXAMPLES)
        return Days(one.day, "*", other.weekday)
    if not months:
        return _of_any_month(words)
    if not {"month", "monthly"}.isdisjoint(words):
        raise Unreadable("is not a schedule", EXAMPLES)
    of_month = [*words, "of", "the", "month"]
    day, weekday = _month_days(of_month), _weekdays_of_month(of_month)
    found = Days() if day or weekday else _of_any_month(words)
    return found._replace(month=months, day=day or found.day, weekday=weekday or found.weekday)


def _without_months(words: list[str]) -> tuple[list[str], str]:
    """Return the words before `of every January and July`, and the field `1,7`; else an empty text.

    Raise `Unreadable` for `of January`, which may mean only the next one.
    """
    start = max((at for at, word in enumerate(words) if word in ("of", "in")), default=len(words))
    names = listed(words[start + 1 :])
    is_repeated = names[:1] in (["every"], ["each"])
    names = names[1:] if is_repeated else names
    numbers = {number for number in map(month_number, names) if number}
    if not names or not all(map(month_number, names)):
        return words, ""
    if not is_repeated:
        months = as_text(words[start + 1 :])
        raise Unreadable("is ambiguous", f'write "… of every {months}", or a date (once)')
    return words[:start], ",".join(str(number) for number in sorted(numbers))


def _of_any_month(words: list[str]) -> Days:
    if not words:
        raise Unreadable("is not a schedule", EXAMPLES)
    if month_days := _month_days(words):
        return Days(day=month_days)
    return Days(weekday=_weekdays_of_month(words) or _weekdays(words))


def _weekdays(words: list[str]) -> str:
    is_repeated = words[0] in ("every", "each")
    names = listed(words[1:] if words[0] in ("every", "each", "on") else words)
    if not names:
        raise Unreadable("is not a schedule", EXAMPLES)
    if len(names) == 1:
        single = names[0] if is_repeated else _REPEATED.get(names[0], "")
        if single in _EVERY_DAY:
            return _EVERY_DAY[single]
    numbers = []
    for name in names:
        number = weekday_number(name)  # also for an abbreviation such as `tues`
        plural = number is None and name.endswith("s")
        if plural:
            number = weekday_number(name[:-1])
        if number is None:
            raise _unknown_day(words, name)
        if not (plural or is_repeated):
            raise Unreadable("is ambiguous", f'write "next {name} …" (once) or "every {name} …"')
        numbers.append(number)
    # Monday first, as people list them; cron counts Sunday as 0.
    return ",".join(str(number % 7) for number in sorted(set(numbers)))


def _month_days(words: list[str]) -> str:
    """Return `1,15,L` for `every month on the 1st, 15th and last day`; empty for other words.

    Raise `Unreadable` for an ambiguous phrase and an invalid day.
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
    left = [word for word in listed(rest) if word != "the"]
    while left:
        if left[:2] == ["last", "day"]:
            last, left = True, left[2:]
        elif match := _ORDINAL.fullmatch(left[0]):
            numbers.add(int(match[1]))
            left = left[1:]
        elif ends := _RANGE.match(" ".join(left)):
            numbers.update(range(int(ends[1]), int(ends[2]) + 1))
            left = left[4:]
        else:
            return ""
    if not is_repeated and (numbers or last):
        days = as_text(rest).removeprefix("the ")
        on = "" if days.startswith("from") else "on the "
        raise Unreadable("is ambiguous", f'write "every month {on}{days} …", or a date (once)')
    if not all(1 <= number <= 31 for number in numbers):
        raise Unreadable("has an invalid day of the month", "use the 1st to the 31st")
    return ",".join([*map(str, sorted(numbers)), *(["L"] if last else [])])


def _weekdays_of_month(words: list[str]) -> str:
    """Return `2#2` for `2nd Tuesday of the month`, `L5` for the last Friday; else an empty text.

    Raise `Unreadable` for an ambiguous phrase.
    """
    rest = [word for word in listed(words) if word != "on"]
    is_repeated = rest[:1] in (["every"], ["each"], ["monthly"])
    rest = [word for word in (rest[1:] if is_repeated else rest) if word != "the"]
    of_month = rest[-2:] == ["of", "month"] or (
        len(rest) > 3 and rest[-3] == "of" and rest[-2] in ("every", "each") and rest[-1] == "month"
    )
    if of_month:
        rest = rest[: rest.index("of")]
    found, ordinals = list[str](), list[str]()
    for word in rest:
        weekday = weekday_number(word)
        if weekday is None:
            ordinals.append(word)
            continue
        for ordinal in ordinals:
            match = _ORDINAL.fullmatch(ordinal)
            number = int(match[1]) if match else _NTH.get(ordinal, 0)
            if ordinal == "last":
                found.append(f"L{weekday % 7}")
            elif 1 <= number <= 5:
                found.append(f"{weekday % 7}#{number}")
            else:
                return ""
        if not ordinals:
            return ""
        ordinals = []
    if ordinals or not found:
        return ""
    if not of_month and not (is_repeated and len(rest) == 2 and rest[0] == "last"):
        name = rest[-1]
        shown = " and ".join(rest[:-1]) + f" {name}" if rest[1:] else name
        raise Unreadable("is ambiguous", f'write "{shown} of every month …" or "every {name} …"')
    return ",".join(found)


def _unknown_day(words: list[str], name: str) -> Unreadable:
    known = [*WEEKDAYS, *_EVERY_DAY, *_REPEATED, "today", "tomorrow"]
    if any(word[0].isdigit() for word in words[:2]):
        return Unreadable(
            "combines an interval with a time of day",
            'write days, such as "every day at 9:00", or an interval alone, such as "every 2h"',
        )
    near = difflib.get_close_matches(name[:_MAX_DAY_LENGTH], known, n=1, cutoff=0.75)
    if near and name not in known:
        return Unreadable(f'has the unknown day "{name}"', f"did you mean {near[0]}?")
    return Unreadable("is not a schedule", EXAMPLES)
