"""Durations as text for people, in words or with short units.

`schedules.durations` has the text that a user writes for a duration, such as `1h30m`.
"""

from __future__ import annotations

from datetime import timedelta

_UNITS = (("day", 86_400), ("hour", 3_600), ("minute", 60), ("second", 1))


def duration_in_words(length: timedelta) -> str:
    """Return a length of time in words, floored to the second: "43 minutes", "1 hour 5 minutes".

    A negative length counts as zero.
    """
    left = max(length // timedelta(seconds=1), 0)
    parts: list[str] = []
    for name, unit in _UNITS:
        count, left = divmod(left, unit)
        if count:
            parts.append(f"{count} {name}{'s' if count > 1 else ''}")
    return " ".join(parts) or "0 seconds"


def measured_in_words(seconds: float) -> str:
    """Return a measured duration in words, such as "1 hour 5 minutes"; below a minute, "0.4 s"."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    return duration_in_words(timedelta(seconds=round(seconds)))


def short_duration(seconds: float, *, aligned: bool = False) -> str:
    """Return a measured duration: `0.4 s`, `12 s`, `3 min 4 s`, `2 h 5 min`.

    With ``aligned``, return it for a column of a table: `0.4 s`, `12.0 s`, `3 m 04 s`, `2 h 05 m`.
    """
    if round(seconds, 1) < (60 if aligned else 10):
        return f"{seconds:.1f} s"
    number, rest = divmod(round(seconds), 60)
    minute = "m" if aligned else "min"
    unit, unit_of_rest = minute, "s"
    if number >= 60:
        number, rest = divmod(number, 60)
        unit, unit_of_rest = "h", minute
    if aligned:
        return f"{number} {unit} {rest:02} {unit_of_rest}"
    parts = ((number, unit), (rest, unit_of_rest))
    return " ".join(f"{count:,} {name}" for count, name in parts if count)
