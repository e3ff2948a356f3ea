"""Durations as text: `90s`, `30m`, `1h30m`, `2d`, also `1 hour and 30 minutes`.

A duration is at least one second and has no fraction. A day is 24 hours; only cron schedules follow
wall-clock days.
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

from daybook.errors import InvalidInput
from daybook.validation import raising_pydantic_error

SYNTAX_HINT = "use a whole number of seconds, at least 1s, such as 90s, 30m, 1h30m or 2d"
MAX_DURATION = timedelta(days=36_500)

_UNITS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
_NAMES = ("d|days?", "h|hrs?|hours?", "m|mins?|minutes?", "s|secs?|seconds?")
_SHAPE = re.compile("".join(rf"(?:(\d+)(?:{names}))?" for names in _NAMES), re.ASCII)
_FRACTION = re.compile(r"\d*[.,]\d+\s*[a-z]*|\d+\s*(?:ms|us|ns)", re.ASCII)
_WITH_FRACTION = re.compile(
    rf"(\d{{0,6}}[.,]\d{{1,9}})\s*(?:{'|'.join(f'({names})' for names in _NAMES)})", re.ASCII
)


def parse(text: str, field: str = "every") -> timedelta:
    """Parse a duration; errors name ``field``.

    Units come in the order d, h, m, s, each at most once; they may be written out. Raise
    `InvalidInput` for a duration that is zero, negative, fractional or above `MAX_DURATION`, and
    for any other text.
    """
    word = text.strip().lower()
    if word.startswith("-"):
        raise InvalidInput(field, f'"{text}" is negative', SYNTAX_HINT)
    if whole := _without_fraction(word):
        raise InvalidInput(field, f'"{text}" has a fraction', f'write "{whole}"')
    if _FRACTION.fullmatch(word):
        raise InvalidInput(
            field, f'"{text}" is shorter than 1 s or not a whole number of seconds', SYNTAX_HINT
        )
    if word.isascii() and word.isdigit():
        raise without_unit(field, text)
    match = _SHAPE.fullmatch(_without_spaces(word))
    if match is None or not word:
        raise InvalidInput(field, f'"{text}" is not a duration', SYNTAX_HINT)
    if max(len(part or "") for part in match.groups()) > 12:
        raise InvalidInput(field, f'"{text}" is longer than 100 years', SYNTAX_HINT)
    seconds = sum(
        int(part) * unit
        for part, unit in zip(match.groups(), _UNITS.values(), strict=True)
        if part is not None
    )
    return _checked(seconds, text, field)


def without_unit(field: str, number: object) -> InvalidInput:
    """Return the error about a number without a unit; ``number`` is its text, or the number."""
    shown = f'"{number}"' if isinstance(number, str) else f"{number}"
    digits = str(number).strip()
    choices = ", ".join(f"{digits}{unit}" for unit in reversed(_UNITS))
    hint = f"write one of {choices}" if digits.strip("0") else SYNTAX_HINT
    return InvalidInput(field, f"{shown} has no unit", hint)


def _without_fraction(word: str) -> str:
    """Return `1h30m` for `1.5 hours`; an empty text for a text without a fraction of a unit.

    Return an empty text, too, if the duration is not a whole number of seconds.
    """
    if not (match := _WITH_FRACTION.fullmatch(word)):
        return ""
    number, *units = match.groups()
    unit = next(size for name, size in zip(units, _UNITS.values(), strict=True) if name)
    whole, _, fraction = number.replace(",", ".").partition(".")
    seconds, rest = divmod(int(whole + fraction or "0") * unit, 10 ** len(fraction))
    return "" if rest or not seconds else to_text(timedelta(seconds=seconds))


def _without_spaces(word: str) -> str:
    """Return `1h30m` for `1h, 30m` and `1hour30minutes` for `1 hour and 30 minutes`.

    Return the word itself if a space or separator is in an illegal place.
    """
    joined, separator = "", ""
    for part in word.replace(",", " , ").split():
        if part in (",", "and"):
            if (separator and (separator, part) != (",", "and")) or not joined[-1:].isalpha():
                return word
            separator = part
            continue
        if (joined[-1:].isdigit(), joined[-1:].isalpha()) == (part[0].isdigit(), part[0].isalpha()):
            return word
        joined, separator = joined + part, ""
    return word if separator else joined


def from_timedelta(value: timedelta, field: str = "every") -> timedelta:
    """Return ``value`` if it is a valid duration.

    Raise `InvalidInput` if it is zero, negative, fractional, or above `MAX_DURATION`.
    """
    if value.microseconds:
        raise InvalidInput(
            field, f'"{value}" is shorter than 1 s or not a whole number of seconds', SYNTAX_HINT
        )
    return _checked(value.days * 86_400 + value.seconds, str(value), field)


def to_text(value: timedelta) -> str:
    """Return the canonical text: largest units first, without zero units (`1h30m`, `2d`)."""
    remaining = value.days * 86_400 + value.seconds
    parts = []
    for letter, unit in _UNITS.items():
        count, remaining = divmod(remaining, unit)
        if count:
            parts.append(f"{count}{letter}")
    return "".join(parts) or "0s"


def _checked(seconds: int, text: str, field: str) -> timedelta:
    if seconds < 0:
        raise InvalidInput(field, f'"{text}" is negative', SYNTAX_HINT)
    if seconds == 0:
        raise InvalidInput(field, f'"{text}" is zero', SYNTAX_HINT)
    if seconds > MAX_DURATION.total_seconds():
        raise InvalidInput(field, f'"{text}" is longer than 100 years', SYNTAX_HINT)
    return timedelta(seconds=seconds)


def _read(value: object, field: str) -> timedelta:
    with raising_pydantic_error():
        if isinstance(value, timedelta):
            return from_timedelta(value, field)
        if isinstance(value, str):
            return parse(value, field)
        if type(value) is int and value > 0:
            raise without_unit(field, value)
        raise InvalidInput(field, f"{value!r} is not a duration", SYNTAX_HINT)


def _validated(field: str) -> BeforeValidator:
    return BeforeValidator(lambda value: _read(value, field))


def _validated_or_none(field: str) -> BeforeValidator:
    def validate(value: object) -> timedelta | None:
        none = value is None or (isinstance(value, str) and not value.strip())
        return None if none else _read(value, field)

    return BeforeValidator(validate)


def _text_or_empty(value: timedelta | None) -> str:
    return "" if value is None else to_text(value)


_TEXT = PlainSerializer(to_text, return_type=str)
_TEXT_OR_EMPTY = PlainSerializer(_text_or_empty, return_type=str)
_SCHEMA = WithJsonSchema(
    {
        "type": "string",
        "title": "Duration",
        "description": "A duration in days, hours, minutes and seconds; a day is 24 hours.",
        "examples": ["90s", "30m", "1h30m", "2d"],
    }
)

Duration = Annotated[timedelta, _validated("every"), _TEXT, _SCHEMA]
"""Model field that accepts a string or a timedelta, and is serialized as its canonical text."""

Timeout = Annotated[timedelta, _validated("timeout"), _TEXT, _SCHEMA]
"""Duration of a field named `timeout`."""
RetryDelay = Annotated[timedelta, _validated("retry_delay"), _TEXT, _SCHEMA]
"""Duration of a field named `retry_delay`."""
Deadline = Annotated[timedelta | None, _validated_or_none("deadline"), _TEXT_OR_EMPTY, _SCHEMA]
"""Duration of a field named `deadline`; the empty string, which Prefect's form sends, is None."""
ApproveWithin = Annotated[timedelta, _validated("approve_within"), _TEXT, _SCHEMA]
"""Duration of a field named `approve_within`."""
Progress = Annotated[timedelta | None, _validated_or_none("progress"), _TEXT_OR_EMPTY, _SCHEMA]
"""Duration of a field named `progress`; the empty string is None."""
Stagger = Annotated[timedelta | None, _validated_or_none("stagger"), _TEXT_OR_EMPTY, _SCHEMA]
"""Duration of a field named `stagger`; the empty string is None."""
