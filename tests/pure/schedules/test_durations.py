"""Durations: valid texts, and the text of each refusal (requirement 4)."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from daybook.errors import InvalidInput
from daybook.schedules import durations
from daybook.schedules.durations import Duration


@pytest.mark.floor("A", "Every is a duration text such as 1h30m")
@pytest.mark.floor("B", "An interval is a duration")
@pytest.mark.parametrize(
    ("text", "seconds", "canonical"),
    [
        ("90s", 90, "1m30s"),
        ("30m", 1800, "30m"),
        ("1h30m", 5400, "1h30m"),
        ("2d", 172_800, "2d"),
        ("1s", 1, "1s"),
        ("24h", 86_400, "1d"),
        ("1d12h5m1s", 129_901, "1d12h5m1s"),
        (" 90M ", 5400, "1h30m"),
        ("1h 30m", 5400, "1h30m"),
        ("1 hour and 30 minutes", 5400, "1h30m"),
        ("1 hour, and 30 minutes", 5400, "1h30m"),
        ("2 days, 1 min", 172_860, "2d1m"),
        ("1 Second", 1, "1s"),
    ],
)
def test_a_duration_is_parsed_and_shown_in_canonical_form(
    text: str, seconds: int, canonical: str
) -> None:
    assert durations.parse(text) == timedelta(seconds=seconds)
    assert durations.to_text(timedelta(seconds=seconds)) == canonical


LEGAL = "(use a whole number of seconds, at least 1s, such as 90s, 30m, 1h30m or 2d)"


@pytest.mark.floor("A", "Every must be positive")
@pytest.mark.floor("B", "An interval must be positive")
@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("0s", '"0s" is zero'),
        ("0h0m", '"0h0m" is zero'),
        ("-5m", '"-5m" is negative'),
        ("0.5s", '"0.5s" is shorter than 1 s or not a whole number of seconds'),
        ("1.5s", '"1.5s" is shorter than 1 s or not a whole number of seconds'),
        ("0.00001h", '"0.00001h" is shorter than 1 s or not a whole number of seconds'),
        (
            "9" * 5_000 + ".5h",
            f'"{"9" * 5_000}.5h" is shorter than 1 s or not a whole number of seconds',
        ),
        ("500ms", '"500ms" is shorter than 1 s or not a whole number of seconds'),
        ("", '"" is not a duration'),
        ("5x", '"5x" is not a duration'),
        ("30m1h", '"30m1h" is not a duration'),
        ("1h 30", '"1h 30" is not a duration'),
        ("30 minutes 1 hour", '"30 minutes 1 hour" is not a duration'),
        ("an hour", '"an hour" is not a duration'),
        ("1 h o u r", '"1 h o u r" is not a duration'),
        ("1 hour and, 30 minutes", '"1 hour and, 30 minutes" is not a duration'),
        ("٣m", '"٣m" is not a duration'),
        ("36501d", '"36501d" is longer than 100 years'),
        ("9999999999999s", '"9999999999999s" is longer than 100 years'),
    ],
)
def test_an_invalid_duration_is_refused(text: str, problem: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        durations.parse(text, "every")
    assert str(caught.value) == f"every: {problem} {LEGAL}"
    assert caught.value.field == "every"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("1.5h", '"1.5h" has a fraction (write "1h30m")'),
        ("0.5 hours", '"0.5 hours" has a fraction (write "30m")'),
        (".25d", '".25d" has a fraction (write "6h")'),
        ("0,5min", '"0,5min" has a fraction (write "30s")'),
        ("30", '"30" has no unit (write one of 30s, 30m, 30h, 30d)'),
    ],
)
def test_an_invalid_duration_is_refused_with_what_was_meant(text: str, problem: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        durations.parse(text, "every")
    assert str(caught.value) == f"every: {problem}"
    for valid in re.findall(r"\d+[smhd]+", caught.value.hint):
        durations.parse(valid)


@pytest.mark.parametrize("value", [timedelta(0), timedelta(seconds=-1), timedelta(seconds=1.5)])
def test_an_invalid_timedelta_is_refused(value: timedelta) -> None:
    with pytest.raises(InvalidInput, match=r"^timeout: "):
        durations.from_timedelta(value, "timeout")


@given(st.integers(1, 36_500 * 86_400))
def test_a_duration_round_trips_through_its_text(seconds: int) -> None:
    value = timedelta(seconds=seconds)
    assert durations.parse(durations.to_text(value)) == value


def test_a_duration_in_a_model_is_its_canonical_text() -> None:
    adapter: TypeAdapter[timedelta] = TypeAdapter(Duration)
    assert adapter.validate_json('"90m"') == timedelta(minutes=90)
    assert adapter.validate_python(timedelta(hours=1)) == timedelta(hours=1)
    assert adapter.dump_json(timedelta(minutes=90)) == b'"1h30m"'
    schema = adapter.json_schema()
    assert schema["type"] == "string"
    assert schema["description"]
    assert all(durations.parse(text) for text in schema["examples"])
    for bad in ("0s", 5, timedelta(microseconds=1)):
        with pytest.raises(ValidationError):
            adapter.validate_python(bad)
