"""Output of `today`."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from daybook.clock import SYSTEM_CLOCK
from daybook.diagnosis import today as operation
from daybook.diagnosis.today import Today
from daybook.finding import warning

MESSAGE = {
    "id": "msg_0123456789abcdef",
    "event": "run.completed",
    "alert": False,
    "job": "brief",
    "job_removed": False,
    "run_id": None,
    "subject": "brief: Forty-two.\nAnd more",
    "text": "Forty-two.",
    "created_at": "2027-01-15T12:00:00Z",
    "read_at": None,
}
UNCACHED = {"cache_read_tokens": 0, "cache_write_tokens": 0, "unpriced_runs": 0}
NOTHING = {"cost_usd": None, "input_tokens": 0, "output_tokens": 0, **UNCACHED}
SPENT = NOTHING | {"cost_usd": 1.5, "input_tokens": 1_400, "output_tokens": 25, "unpriced_runs": 1}


def show(
    daybook: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, *options: str, **changes: Any
) -> Any:
    due = SYSTEM_CLOCK.now() + timedelta(minutes=14, seconds=20)
    found = {
        "since": "2027-01-15T12:00:00Z",
        "ended": {"succeeded": 1_200, "timed_out": 1},
        "problems": [warning("jobs", "weekly failed once", "daybook show weekly").model_dump()],
        "unread_count": 3,
        "unread": [MESSAGE],
        "due_soon": [{"job": "brief", "due": due}],
        "spent": SPENT,
    }

    async def today() -> Today:
        return Today.model_validate(found | changes)

    monkeypatch.setattr(operation, "today", today)
    result = daybook("today", *options)
    assert result.code == 0
    return result


@pytest.mark.usefixtures("stored")
def test_today_says_what_happened_and_what_is_open(
    daybook: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, problem, *fields = show(daybook, monkeypatch).out.splitlines()
    summary = "1,201 runs ended in the last 24 hours: 1,200 succeeded, 1 timed out."
    assert first == summary
    assert problem == "! weekly failed once; fix: daybook show weekly"
    assert fields[:3] == [
        "  unread  01234567  brief: Forty-two.",
        "          and 2 more",
        "          (`daybook inbox ID` shows a message)",
    ]
    assert fields[3] == "  next    in 14 min  brief"
    assert fields[4:] == ["  spent   $1.5000 and 1 run of unknown price, 1,400 tokens in, 25 out"]


@pytest.mark.usefixtures("stored")
def test_today_shows_absolute_times_with_their_zone(
    daybook: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = show(daybook, monkeypatch, "--absolute").out.splitlines()
    assert re.fullmatch(r"  next      20\d\d-\d\d-\d\d \d\d:\d\d:\d\d  brief", lines[5])
    assert lines[-1].startswith("  times in  ")


@pytest.mark.usefixtures("stored")
def test_a_quiet_day_is_one_line(
    daybook: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet = {"ended": {}, "problems": [], "unread": [], "unread_count": 0, "due_soon": []}
    result = show(daybook, monkeypatch, spent=NOTHING, **quiet)
    assert result.out == "No run has ended in the last 24 hours.\n"
    assert set(show(daybook, monkeypatch, "--json").json) == set(Today.model_fields)
