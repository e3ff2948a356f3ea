"""Time zones, and the instants of wall-clock times (requirement 3)."""

from __future__ import annotations

import itertools
import struct
from datetime import UTC, datetime, timedelta
from importlib import resources
from zoneinfo import ZoneInfo

import pytest

from daybook import zone_names
from daybook.errors import InvalidInput
from daybook.schedules import zones

BERLIN = ZoneInfo("Europe/Berlin")


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[misc,arg-type]


def wall(*parts: int) -> datetime:
    return utc(*parts).replace(tzinfo=None)


def test_a_sentence_has_the_time_of_the_zone_with_its_name_and_the_year_if_it_is_another() -> None:
    at = utc(2026, 12, 31, 23, 30)
    berlin = "Fri 1 Jan 2027, 00:30 Europe/Berlin"
    for now in (utc(2026, 12, 31), None):
        assert zones.time_with_zone(at, "Europe/Berlin", now) == berlin
    assert zones.time_with_zone(at, "UTC", utc(2026, 1, 1)) == "Thu 31 Dec, 23:30 UTC"
    assert zones.time_with_zone(at, "Mars/Olympus", utc(2026, 1, 1)) == "Thu 31 Dec, 23:30 UTC"


@pytest.mark.floor("C", "An unknown zone is refused")
@pytest.mark.floor("E", "An unknown timezone is refused")
@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("Europe/Berlinn", "Europe/Berlin"),
        ("europe/berlin", "did you mean Europe/Berlin?"),
        ("New York", "America/New_York"),
        ("Sidney", "Australia/Sydney"),
        ("America/Bogata", "America/Bogota"),
        ("xxxxxxx", "write an IANA name such as Europe/Berlin or UTC"),
        ("", "write an IANA name such as Europe/Berlin or UTC"),
        ("../etc/passwd", ""),
        ("localtime", ""),
        ("posixrules", "write an IANA name such as Europe/Berlin or UTC"),
        ("Factory", "write an IANA name such as Europe/Berlin or UTC"),
        ("posix/Europe/Berlin", "Europe/Berlin"),
        ("right/Europe/Berlin", "Europe/Berlin"),
        ("GMT+2", ", or Etc/GMT-2, which is always 2 hours ahead of UTC"),
        ("utc -1", ", or Etc/GMT+1, which is always 1 hour behind UTC"),
        ("+05:30", "write the zone of a city, such as Europe/Berlin"),
        ("UTC+02:00", ", or Etc/GMT-2, which is always 2 hours ahead of UTC"),
        ("-00:00", "write the zone of a city, such as Europe/Berlin, or UTC"),
        ("UTC-13", "write the zone of a city, such as Europe/Berlin"),
    ],
)
def test_an_unknown_zone_is_refused_with_the_nearest_name(name: str, advice: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        zones.zone(name)
    assert str(caught.value).startswith(f'timezone: unknown zone "{name}" (')
    assert caught.value.hint.endswith(advice) if advice[:1] == "," else advice in caught.value.hint


def test_a_hint_about_an_offset_names_a_zone_with_that_offset() -> None:
    for hours in range(-12, 15):
        named = zone_names.hint(f"GMT{hours:+}").partition(", or ")[2].partition(",")[0]
        assert datetime(2027, 1, 1, tzinfo=ZoneInfo(named)).utcoffset() == timedelta(hours=hours)


@pytest.mark.parametrize(
    ("name", "legal"),
    [
        ("Europe/Berlin", "Europe/Berlin"),
        ("posix/Europe/Berlin", "Europe/Berlin"),
        ("right/Asia/Kolkata", "Asia/Kolkata"),
        ("Factory", "UTC"),
        ("localtime", "UTC"),
        (None, "UTC"),
    ],
)
def test_the_zone_of_a_machine_is_a_zone_that_jobs_may_have(name: str | None, legal: str) -> None:
    assert zone_names.of_machine(name) == legal


def test_a_known_zone_is_returned_and_cached() -> None:
    assert zones.zone("Europe/Berlin") is zones.zone("Europe/Berlin")
    assert zones.zone("UTC").key == "UTC"


def test_a_zone_name_that_is_too_long_is_refused() -> None:
    with pytest.raises(InvalidInput) as caught:
        zones.zone("Europe/" * 100_000)
    assert str(caught.value) == "timezone: is too long (use at most 100 characters)"


@pytest.mark.parametrize(
    ("local", "instant"),
    [
        (wall(2026, 7, 1, 12), utc(2026, 7, 1, 10)),
        (wall(2026, 3, 29, 2, 30), utc(2026, 3, 29, 1)),  # skipped
        (wall(2026, 3, 29, 2, 0), utc(2026, 3, 29, 1)),
        (wall(2026, 3, 29, 2, 59, 59), utc(2026, 3, 29, 1)),
        (wall(2026, 3, 29, 3, 0), utc(2026, 3, 29, 1)),
        (wall(2026, 10, 25, 2, 30), utc(2026, 10, 25, 0, 30)),  # shown twice
        (wall(2026, 10, 25, 3, 0), utc(2026, 10, 25, 2)),
    ],
)
def test_a_wall_clock_time_is_converted_to_its_instant(local: datetime, instant: datetime) -> None:
    assert zones.to_instant(local, BERLIN) == instant


def test_next_change_returns_the_next_offset_change() -> None:
    change = utc(2026, 3, 29, 1)
    assert zones.next_change(BERLIN, utc(2026, 1, 1), utc(2026, 12, 1)) == change
    assert zones.next_change(BERLIN, change - timedelta(seconds=1), change) == change
    assert zones.next_change(BERLIN, change, utc(2026, 10, 25, 0, 59, 59)) is None
    assert zones.next_change(BERLIN, change, utc(2026, 10, 25, 1)) == utc(2026, 10, 25, 1)
    assert zones.next_change(ZoneInfo("UTC"), utc(2026, 1, 1), utc(2030, 1, 1)) is None


def test_no_zone_changes_twice_within_five_days() -> None:
    """`next_change` checks every fifth day, so it would miss two changes that cancel each other."""
    gaps = {
        name: later - earlier
        for name in resources.files("tzdata").joinpath("zones").read_text("utf-8").split()
        for earlier, later in itertools.pairwise(offset_changes(name))
    }
    assert len(gaps) > 300
    assert min(gaps.values()) > 5 * 86_400


def offset_changes(name: str) -> list[int]:
    """Return the Unix times at which a zone's offset changes, from its compiled file (RFC 8536)."""
    data = resources.files("tzdata.zoneinfo").joinpath(name).read_bytes()

    def header(start: int) -> tuple[int, ...]:
        return struct.unpack(">6l", data[start + 20 : start + 44])

    utc_flags, wall_flags, leaps, times, types, letters = header(0)
    start = 44 + times * 5 + types * 6 + letters + leaps * 8 + wall_flags + utc_flags
    *_, times, types, _ = header(start)  # the second block has times of 64 bits
    start += 44
    instants = struct.unpack(f">{times}q", data[start : start + 8 * times])
    kinds = data[start + 8 * times : start + 9 * times]
    offsets = [
        struct.unpack(">l", data[place : place + 4])[0]
        for place in range(start + 9 * times, start + 9 * times + 6 * types, 6)
    ]
    after = [offsets[kind] for kind in kinds]
    before = [None, *after]
    return [
        instant
        for instant, old, new in zip(instants, before, after, strict=False)
        if old is not None and new != old
    ]
