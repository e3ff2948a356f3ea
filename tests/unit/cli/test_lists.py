"""Filters and times of `list` and `runs`, and `next` without a job."""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import tzlocal

from daybook.cli import formatting
from daybook.clock import SYSTEM_CLOCK
from daybook.home import Home
from daybook.testing import ManualClock

pytestmark = pytest.mark.usefixtures("stored")


NOW = datetime(2027, 1, 15, 12, tzinfo=UTC)


@pytest.fixture
def kathmandu() -> Iterator[None]:
    """Put this machine into a time zone without daylight saving, 5:45 ahead of UTC."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", "Asia/Kathmandu")
        time.tzset()
        tzlocal.reload_localzone()
        yield
    time.tzset()
    tzlocal.reload_localzone()


def names(result: Any) -> list[str]:
    return [each["name"] for each in result.json]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("", ["by hand", "often", "weekly"]),
        ("--status off", ["by hand"]),
        ("--status on --sort created", ["often", "weekly"]),
        ("--tag team", ["weekly"]),
        ("--agent default --name OFT", ["often"]),
        ("--kind webhook", []),
        ("--failing", []),
        ("--since yesterday", []),
        ("--limit 2", ["by hand", "often"]),
        ("--limit 1 --tag team", ["weekly"]),
    ],
)
def test_list_filters_jobs(daybook: Callable[..., Any], options: str, expected: list[str]) -> None:
    assert names(daybook("list", *options.split(), "--json")) == expected


def test_a_list_without_a_match_does_not_claim_that_there_are_no_jobs(
    daybook: Callable[..., Any],
) -> None:
    assert daybook("list", "--failing").err == "No job matches. `daybook list` lists all jobs.\n"
    assert daybook("runs", "--failing").err == "No run matches.\n"


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ("--status waiting", 1),
        ("--status succeeded", 0),
        ("--tag team", 1),
        ("weekly --since 1h", 1),
    ],
)
def test_runs_filters_runs(daybook: Callable[..., Any], options: str, count: int) -> None:
    assert len(daybook("runs", *options.split(), "--json").json) == count


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("list --status broken", '--status: "broken" is not a status'),
        ("list --limit 0", "--limit: 0 is too small"),
        ("runs --since soon", '--since: "soon" is not a time'),
        ("runs --sort name", '--sort: "name" is not a sort'),
        ("next --count 0", "--count: 0 is too small"),
        ("next --after 2027-01-01", "schedule: is missing"),
    ],
)
def test_an_invalid_option_is_named(daybook: Callable[..., Any], typed: str, message: str) -> None:
    result = daybook(*typed.split())
    assert result.code == 2
    assert message in result.err


def test_next_without_a_job_lists_the_next_due_time_of_each_job(
    daybook: Callable[..., Any],
) -> None:
    listed = daybook("next", "--json").json
    order = [each["name"] for each in listed]
    assert sorted(order) == ["often", "weekly"]  # on a Monday morning, `weekly` may be the first
    first, second = (datetime.fromisoformat(each["next_due"][0]) for each in listed)
    assert first <= second
    assert names(daybook("next", "--count", "1", "--json")) == order[:1]
    assert names(daybook("list", "--limit", "1", "--sort", "next", "--json")) == order[:1]
    header, *rows = daybook("next").out.splitlines()
    assert header.split() == ["NEXT", "JOB", "SCHEDULE", "LAST"]
    assert [row.split()[-1] for row in rows] == ["-", "-"]
    assert "  often   every 1 hour 30 minutes  " in rows[order.index("often")]


def test_next_without_jobs_says_so(
    daybook: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAYBOOK_HOME", str(Home(tmp_path / "empty").make().path))
    result = daybook("next")
    assert (result.code, result.out) == (0, "")
    assert "No job is due" in result.err


@pytest.mark.parametrize("command", ["list", "runs"])
def test_a_watched_list_is_printed_again_on_a_cleared_screen(
    daybook: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    pauses = list[float]()

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(asyncio, "sleep", pause)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("NO_COLOR", "1")
    result = daybook(command, "--watch")
    assert (result.code, pauses) == (130, [2.0, 2.0])
    before, *screens = result.out.split("\x1b[H\x1b[2J")
    assert before == ""
    assert len(screens) == 2
    for screen in screens:
        assert "weekly" in screen


def test_the_times_of_a_watched_list_are_those_of_each_update(
    daybook: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    start = SYSTEM_CLOCK.now() + timedelta(hours=2, minutes=5)
    clock = ManualClock(start)

    async def pause(seconds: float) -> None:
        if clock.now() > start:
            raise KeyboardInterrupt
        clock.move(timedelta(hours=1))

    monkeypatch.setattr(formatting, "SYSTEM_CLOCK", clock)
    monkeypatch.setattr(asyncio, "sleep", pause)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert re.findall(r"\d h ago", daybook("runs", "--watch").out) == ["2 h ago", "3 h ago"]


@pytest.mark.parametrize(
    ("options", "problem"), [("--json", "cannot be combined with --json"), ("", "needs a terminal")]
)
@pytest.mark.parametrize("command", ["list", "runs", "status"])
def test_watch_needs_a_terminal(
    daybook: Callable[..., Any], command: str, options: str, problem: str
) -> None:
    result = daybook(command, "-w", *options.split())
    assert result.code == 2
    assert f"--watch: {problem}" in result.err


@pytest.mark.parametrize(
    ("ahead", "expected"),
    [
        (timedelta(0), "now"),
        (timedelta(seconds=119), "in 119 s"),
        (timedelta(minutes=14), "in 14 min"),
        (timedelta(minutes=-119), "119 min ago"),
        (timedelta(hours=-2), "2 h ago"),
        (timedelta(seconds=7_190), "in 2 h"),
        (timedelta(minutes=90), "in 90 min"),
        (timedelta(hours=47, minutes=40), "in 2 days"),
        (timedelta(hours=47), "in 47 h"),
        (timedelta(days=6, hours=20), "in 7 days"),
    ],
)
def test_a_relative_time_has_the_largest_unit_of_which_there_are_two(
    monkeypatch: pytest.MonkeyPatch, ahead: timedelta, expected: str
) -> None:
    monkeypatch.setattr(formatting, "SYSTEM_CLOCK", ManualClock(NOW))
    assert formatting.relative_time(NOW + ahead) == expected
    assert formatting.relative_time(None) == "-"


@pytest.mark.parametrize(
    ("command", "heading", "instant"),
    [
        ("list", "NEXT", r"20\d\d-\d\d-\d\d \d\d:\d\d:00"),
        ("next", "NEXT", r"20\d\d-\d\d-\d\d \d\d:\d\d:00"),
        ("runs", "DUE", r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d"),
    ],
)
def test_absolute_times_are_those_of_the_zone_in_the_heading(
    daybook: Callable[..., Any], kathmandu: None, command: str, heading: str, instant: str
) -> None:
    head, *rows = daybook(command, "--absolute").out.splitlines()
    assert f"{heading} (Asia/Kathmandu)" in head
    (weekly,) = [row for row in rows if " weekly " in f" {row} "]
    assert re.search(instant, weekly)
    if command != "runs":  # 09:00 in Berlin is 13:45 or 12:45 there
        assert re.search(r" 1[23]:45:00 ", weekly)
    assert daybook(command, "--absolute", "--json").json == daybook(command, "--json").json


def test_show_names_the_zone_of_absolute_times(
    daybook: Callable[..., Any], kathmandu: None
) -> None:
    job, run = "weekly", daybook("runs", "--json").json[0]["id"]
    for ref in (job, run):
        assert "  times in " not in daybook("show", ref).out
        assert re.search("  times in +Asia/Kathmandu\n", daybook("show", ref, "--absolute").out)
    assert re.search(r"next due +in \d+ \w+, Mon 20.* 09:00 \+0[12]:00\n", daybook("show", job).out)
    assert re.search(r" 09:00 \+0[12]:00  =  20", daybook("show", job, "--absolute").out)
