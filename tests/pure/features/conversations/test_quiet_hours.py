"""Quiet hours as people write them, and the instants at which they end."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from daybook.errors import InvalidInput
from daybook.features.conversations.quiet_hours import QuietHours

BERLIN = "Europe/Berlin"


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        ("22:00-07:00 Europe/Berlin", "22:00-07:00 Europe/Berlin"),
        (" 22:00 - 7:00  UTC ", "22:00-7:00 UTC"),
        ("13:00-14:30 UTC", "13:00-14:30 UTC"),
        ("08:00-24:00 UTC", "08:00-24:00 UTC"),
    ],
)
def test_hours_are_stored_as_one_text(text: str, stored: str) -> None:
    hours = QuietHours.read(text)
    assert str(hours) == stored
    assert QuietHours.read(stored) == hours


@pytest.mark.parametrize("text", ["", " ", "off", "OFF"])
def test_nobody_needs_quiet_hours(text: str) -> None:
    assert QuietHours.read(text) is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("night", "is not a range of hours"),
        ("22-7", "is not a range of hours"),
        ("22:00\N{EN DASH}07:00", "write 22:00-07:00"),
        ("25:00-07:00", "is not a time of day"),
        ("22:60-07:00", "is not a time of day"),
        ("22:00-22:00", "is an empty range"),
        ("00:00-24:00", "are longer than 16 hours"),
        ("07:00-23:01", "are longer than 16 hours"),
        ("22:00-07:00 Europe/Atlantis", "unknown zone"),
        ("22:00-07:00 UTC UTC", "is not a range of hours"),
    ],
)
def test_invalid_hours_are_refused(text: str, problem: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        QuietHours.read(text)
    assert problem in str(refused.value)


@pytest.mark.parametrize(
    ("hours", "at", "until"),
    [
        ("22:00-07:00", "2026-11-28T20:59:59", None),
        ("22:00-07:00", "2026-11-28T21:00:00", "2026-11-29T06:00"),
        ("22:00-07:00", "2026-11-29T05:59:59.999", "2026-11-29T06:00"),
        ("22:00-07:00", "2026-11-29T06:00:00", None),
        ("13:00-14:00", "2026-11-29T12:30", "2026-11-29T13:00"),
        ("20:00-24:00", "2026-11-29T22:30", "2026-11-29T23:00"),
        # The night to 2026-03-29 has no 02:00 to 03:00: 07:00 is an hour sooner, at 05:00 UTC.
        ("22:00-07:00", "2026-03-28T21:30", "2026-03-29T05:00"),
        # The end itself is skipped: the first instant after the gap is 03:00, at 01:00 UTC.
        ("22:00-02:30", "2026-03-28T21:30", "2026-03-29T01:00"),
        # The hours are in the gap as a whole, so there are none in this night.
        ("02:00-03:00", "2026-03-29T00:59:59", None),
        ("02:00-03:00", "2026-03-29T01:00", None),
        # The night to 2026-10-25 has 02:00 to 03:00 twice: 07:00 is an hour later, at 06:00 UTC.
        ("22:00-07:00", "2026-10-24T20:30", "2026-10-25T06:00"),
        # 02:30 comes twice. Between them, the clocks show 02:30 to 03:00, which is not quiet.
        ("22:00-02:30", "2026-10-24T20:30", "2026-10-25T00:30"),
        ("22:00-02:30", "2026-10-25T00:45", None),
        ("22:00-02:30", "2026-10-25T01:10", "2026-10-25T01:30"),
    ],
)
def test_hours_follow_the_clocks_of_their_zone(hours: str, at: str, until: str | None) -> None:
    found = QuietHours(hours, BERLIN).until(datetime.fromisoformat(at).replace(tzinfo=UTC))
    assert found == (datetime.fromisoformat(until).replace(tzinfo=UTC) if until else None)
