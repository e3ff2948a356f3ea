"""Durations as text: `90s`, `30m`, `1h30m`, `2d`.

A duration is whole seconds, at least one. A day is 24 hours; only cron knows wall-clock days.
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

from daybook.errors import InvalidInput
from daybook.validation import raising_pydantic_error

SYNTAX_HINT = "use whole seconds or more, such as 90s, 30m, 1h30m or 2d"
MAX_DURATION = timedelta(days=36_500)

_UNITS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
_SHAPE = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", re.ASCII)
_FRACTION = re.compile(r"\d*[.,]\d+\s*[a-z]*|\d+\s*(?:ms|us|ns)", re.ASCII)


def parse(text: str, field: str = "every") -> timedelta:
    """Parse a duration; errors name ``field``.

    Units come in the order d, h, m, s, each at most once. Raises `InvalidInput` for zero, a
    negative duration, one below a second or with a fraction of one, and for any other text.
    """
    word = text.strip().lower()
    if word.startswith("-"):
        raise InvalidInput(field, f'"{text}" is negative', SYNTAX_HINT)
    if _FRACTION.fullmatch(word):
        raise InvalidInput(field, f'"{text}" is below 1 s or has a fraction', SYNTAX_HINT)
    match = _SHAPE.fullmatch(word)
    if match is None or not word:
        problem = "has no unit" if word.isascii() and word.isdigit() else "is not a duration"
        raise InvalidInput(field, f'"{text}" {problem}', SYNTAX_HINT)
    if max(len(part or "") for part in match.groups()) > 12:
        raise InvalidInput(field, f'"{text}" is longer than 100 years', SYNTAX_HINT)
    seconds = sum(
        int(part) * unit
        for part, unit in zip(match.groups(), _UNITS.values(), strict=True)
        if part is not None
    )
    return _checked(seconds, text, field)


def from_timedelta(value: timedelta, field: str = "every") -> timedelta:
    """Return the duration if it is valid. Raises `InvalidInput` as `parse` does."""
    if value.microseconds:
        raise InvalidInput(field, f'"{value}" is below 1 s or has a fraction', SYNTAX_HINT)
    return _checked(value.days * 86_400 + value.seconds, str(value), field)


def to_text(value: timedelta) -> str:
    """Return the canonical text: the largest units first, none that is zero (`1h30m`, `2d`)."""
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
"""Model field that reads a text or a timedelta, and writes the canonical text to JSON."""

Timeout = Annotated[timedelta, _validated("timeout"), _TEXT, _SCHEMA]
"""Duration of a field named `timeout`."""
RetryDelay = Annotated[timedelta, _validated("retry_delay"), _TEXT, _SCHEMA]
"""Duration of a field named `retry_delay`."""
Deadline = Annotated[timedelta | None, _validated_or_none("deadline"), _TEXT_OR_EMPTY, _SCHEMA]
"""Duration of a field named `deadline`; the empty text is None, for Prefect's plain text form."""
Progress = Annotated[timedelta | None, _validated_or_none("progress"), _TEXT_OR_EMPTY, _SCHEMA]
"""The same for a field named `progress`."""
Stagger = Annotated[timedelta | None, _validated_or_none("stagger"), _TEXT_OR_EMPTY, _SCHEMA]
"""The same for a field named `stagger`."""
