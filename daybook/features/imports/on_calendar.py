"""Conversion of systemd's calendar expressions (`OnCalendar=`) to equal schedules of Daybook.

::

    Mon..Fri *-*-* 09,17:30:00 Europe/Berlin  ──►  cron 30 9,17 * * 1-5, timezone Europe/Berlin
    *-*~01 18:00                              ──►  cron 0 18 L * *
    2027-01-15 14:30:00                       ──►  at 2027-01-15T14:30:00

    Sat *-*-1..7 18:00                        ──►  cron 0 18 * * 6#1
    Mon *-*~7/1 09:00                         ──►  cron 0 9 * * L1

The reader refuses an expression with

- a weekday and a day of the month, because cron needs only one of them to match (the seven days of
  one week of the month, as above, are a `#` or an `L` of cron),
- years, except in a full date,
- other days from the end of a month than the last, or
- fractions of a second.
"""

from __future__ import annotations

import re
from datetime import datetime

from daybook.errors import InvalidInput
from daybook.features.imports.source import broken

_SHORT = {
    "minutely": "*-*-* *:*:00",
    "hourly": "*-*-* *:00:00",
    "daily": "*-*-* 00:00:00",
    "weekly": "Mon *-*-* 00:00:00",
    "monthly": "*-*-01 00:00:00",
    "quarterly": "*-01,04,07,10-01 00:00:00",
    "semiannually": "*-01,07-01 00:00:00",
    "yearly": "*-01-01 00:00:00",
    "annually": "*-01-01 00:00:00",
}
_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_WEEKDAYS = {name: day for day, name in enumerate(_DAYS, 1)}
_WEEKDAYS |= {name[:3]: day for name, day in _WEEKDAYS.items()}
_TIME = re.compile(r"[^:]+:[^:]+(:[^:]+)?")
_ITEM = re.compile(r"(\d+)(?:\.\.(\d+))?(?:/(\d+))?")
_LAST_DAY = "L"
"""The last day of a month in cron. In systemd, it is `~01`."""
_WEEKS = {"1..7": "1", "8..14": "2", "15..21": "3", "22..28": "4", "29..31": "5"}
"""Days of the month on which a weekday is its first, second … of the month."""
_HINT = "nothing was imported; correct the line, or give `daybook add` a --schedule of its own"


def schedule(where: str, expression: str) -> dict[str, str]:
    """Return the schedule fields of a calendar expression.

    These are `cron` or `at`, and `timezone` if the expression names a time zone. Raise
    `InvalidInput` for an expression that is invalid, or that the reader refuses.
    """
    words, found = expression.split(), dict[str, str]()
    if len(words) > 1 and (words[-1].upper() == "UTC" or re.fullmatch("[A-Za-z]+/.+", words[-1])):
        zone = words.pop()
        found["timezone"] = "UTC" if zone.upper() == "UTC" else zone
    if len(words) == 1:
        words = _SHORT.get(words[0].lower(), words[0]).split()
    weekdays = words.pop(0) if words and words[0][:1].isalpha() else "*"
    time = words.pop() if words and _TIME.fullmatch(words[-1]) else "00:00:00"
    date = words.pop() if words else "*-*-*"
    if words or not expression.strip():
        raise broken(where, f"{expression!r} is no calendar expression", _HINT)
    date, nth = _week_or_last_day(where, expression, date, weekdays)
    numbers = date.split("-")
    if len(numbers) not in (2, 3):
        raise broken(where, f"{expression!r} is no calendar expression", _HINT)
    year, month, day = numbers if len(numbers) == 3 else ("*", *numbers)
    hour, minute, second = (*time.split(":"), "00")[:3]
    parts = (year, month, day, hour, minute, second)
    if year != "*":
        if weekdays != "*" or len(year) != 4 or not all(map(str.isdecimal, parts)):
            raise _no_cron(where, expression, "names a year")
        month, day, hour, minute, second = (f"{int(each):02}" for each in parts[1:])
        at = f"{year}-{month}-{day}T{hour}:{minute}:{second}"
        try:
            return found | {"at": datetime.fromisoformat(at).isoformat()}
        except ValueError as error:
            raise broken(where, f"{expression!r} does not exist: {error}", _HINT) from None
    if weekdays != "*" and day != "*":
        problem = "needs both a weekday and a day of the month; cron is due if either matches"
        raise _no_cron(where, expression, problem)

    def field(text: str, most: int) -> str:
        return _field(where, expression, text, most)

    fields = [
        field(minute, 59),
        field(hour, 23),
        day if day == _LAST_DAY else field(day, 31),
        field(month, 12),
        _nth(_weekdays(where, expression, weekdays), nth),
    ]
    if (seconds := field(second, 59)) != "0":
        fields.insert(0, seconds)
    return found | {"cron": " ".join(fields)}


def _field(where: str, expression: str, text: str, most: int) -> str:
    """Return a component as a field of cron. For example, `1..5/2,9` becomes `1-5/2,9`."""
    if text == "*":
        return "*"
    items = list[str]()
    for each in text.split(","):
        if "." in each.replace("..", ""):
            raise _no_cron(where, expression, "has fractions of a second")
        if (found := _ITEM.fullmatch(each)) is None:
            raise broken(
                where, f"{expression!r}: {text!r} is no part of a calendar expression", _HINT
            )
        first, last, step = found.groups()
        if last is None and step is None:
            items.append(str(int(first)))
        else:
            items.append(f"{int(first)}-{most if last is None else int(last)}")
            items[-1] += f"/{int(step)}" if step else ""
    return ",".join(items)


def _weekdays(where: str, expression: str, text: str) -> str:
    if text == "*":
        return "*"
    found = list[str]()
    for each in text.rstrip(",").split(","):
        days = [_WEEKDAYS.get(day.lower(), 0) for day in re.split(r"\.\.|-", each)]
        if 0 in days or len(days) > 2 or days != sorted(days):
            raise broken(
                where, f"{expression!r}: {each!r} is no weekday, nor a range of them", _HINT
            )
        found.append("-".join(map(str, days)))
    return ",".join(found)


def _week_or_last_day(where: str, expression: str, date: str, weekdays: str) -> tuple[str, str]:
    """Return a date without `~`, and the week of the month that its days are, or "".

    A week counts only with weekdays. Raise `InvalidInput` for other days from the end of a month.
    """
    start, is_from_end, from_end = date.rpartition("~")
    if not is_from_end:
        start, _, day = date.rpartition("-")
        week = _WEEKS.get(re.sub(r"\b0", "", day), "") if weekdays != "*" else ""
        return (f"{start}-*" if week else date), week
    if weekdays != "*" and from_end.lstrip("0") == "7/1":
        return f"{start}-*", _LAST_DAY
    if from_end.lstrip("0") != "1":
        raise _no_cron(where, expression, "counts days from the end of a month")
    return f"{start}-{_LAST_DAY}", ""


def _nth(weekdays: str, nth: str) -> str:
    """Return the weekday field for the given week of a month (`L` is the last), or of all weeks."""
    if not nth:
        return weekdays
    items = [each.partition("-") for each in weekdays.split(",")]
    days = {day for low, _, high in items for day in range(int(low), int(high or low) + 1)}
    pairs = (f"L{day % 7}" if nth == _LAST_DAY else f"{day % 7}#{nth}" for day in sorted(days))
    return ",".join(pairs)


def _no_cron(where: str, expression: str, why: str) -> InvalidInput:
    return broken(
        where, f"{expression!r} {why}, so no cron expression is due at the same times", _HINT
    )
