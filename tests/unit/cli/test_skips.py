"""`skip` and `snooze`, and their effect on `next` and `show`."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from daybook.clock import SYSTEM_CLOCK
from tests.unit.cli.conftest import fill

Home = Path


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("DAYBOOK_HOME", str(tmp_path))
    monkeypatch.setenv("DAYBOOK_TIMEZONE", "Europe/Berlin")
    asyncio.run(fill(tmp_path / "ledger.db"))
    return tmp_path


def _next(daybook: Any, count: int = 3) -> list[str]:
    result = daybook("next", "weekly", "--count", str(count), "--json")
    return [each["local"] for each in result.json["due"]]


@pytest.mark.usefixtures("home")
def test_a_repeated_skip_skips_the_next_due_time_once(daybook: Any) -> None:
    before = _next(daybook)

    first = daybook("skip", "weekly", "--json").json
    again = daybook("skip", "weekly", "--json").json

    assert first["skips"] == [before[0]]
    assert first["next_due"][:2] == before[1:3]
    assert again["skips"] == first["skips"] == daybook("show", "weekly", "--json").json["skips"]
    assert _next(daybook, 2) == before[1:3]
    result = daybook("skip", "weekly")
    assert (result.code, result.err) == (0, "")
    assert "skips" in result.out
    assert daybook("skip", "weekly", "--undo", "--json").json["skips"] == []
    assert _next(daybook) == before


@pytest.mark.usefixtures("home")
def test_snooze_removes_due_times_before_its_end_and_off_restores_them(daybook: Any) -> None:
    before = _next(daybook)

    snoozed = daybook("snooze", "weekly", before[1], "--json").json

    assert snoozed["snoozed_until"] == before[1]
    assert snoozed["next_due"][:2] == before[1:3]  # the due time at the end of the snooze runs
    assert "snoozed" in daybook("show", "weekly").out
    skipped = daybook("skip", "weekly", "--json").json
    assert skipped["skips"] == [before[1]]
    daybook("skip", "weekly", "--undo")
    assert daybook("snooze", "weekly", "--off", "--json").json["snoozed_until"] is None
    assert _next(daybook) == before


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("text", ["2h", "in 2h", "tomorrow", "next monday", "2099-01-15"])
def test_a_snooze_ends_after_a_time_or_at_the_beginning_of_a_day(daybook: Any, text: str) -> None:
    snoozed = daybook("snooze", "weekly", text, "--json").json
    until = datetime.fromisoformat(snoozed["snoozed_until"])
    ahead = until - SYSTEM_CLOCK.now()
    if "2h" in text:
        assert timedelta(hours=1, minutes=59) < ahead < timedelta(hours=2, minutes=1)
    else:
        assert f"{until:%H:%M:%S}" == "00:00:00"  # in the job's zone
        assert ahead > timedelta(0)


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("text", ["", " ", "9999-12-31", "0001-01-01 at 9:00"])
def test_a_snooze_without_a_possible_end_is_refused(daybook: Any, text: str) -> None:
    refused = daybook("snooze", "weekly", text)
    assert (refused.code, refused.err[:15]) == (2, "daybook: UNTIL:")
    assert daybook("show", "weekly", "--json").json["snoozed_until"] is None


def test_skips_and_snoozes_in_the_past_are_not_shown(daybook: Any, home: Home) -> None:
    with closing(sqlite3.connect(home / "ledger.db")) as book, book:
        past = "skips = '[\"2026-11-02T08:00:00+00:00\"]', snoozed_until = '2026-11-03 08:00:00'"
        book.execute(f"UPDATE jobs SET {past} WHERE name = 'weekly'")
    found = daybook("show", "weekly", "--json").json
    assert (found["skips"], found["snoozed_until"]) == ([], None)


@pytest.mark.parametrize(("audited", "is_kept"), [("2026-11-01", True), ("2026-11-03", False)])
def test_the_skip_of_a_past_due_time_stays_until_it_is_decided(
    daybook: Any, home: Home, audited: str, is_kept: bool
) -> None:
    """It may still be caught up on, so a later `skip` and its `--undo` must not remove its skip."""
    past = "2026-11-02T08:00:00+00:00"

    def skips() -> list[str]:
        with closing(sqlite3.connect(home / "ledger.db")) as ledger:
            (stored,) = ledger.execute("SELECT skips FROM jobs WHERE name = 'weekly'").fetchone()
            found: list[str] = json.loads(stored)
            return found

    with closing(sqlite3.connect(home / "ledger.db")) as ledger, ledger:
        changed = f"skips = '[\"{past}\"]', audited_until = '{audited} 00:00:00'"
        ledger.execute(f"UPDATE jobs SET {changed} WHERE name = 'weekly'")
    kept = [past] if is_kept else []
    assert daybook("skip", "weekly").code == 0
    assert skips()[:-1] == kept
    assert daybook("skip", "weekly", "--undo").code == 0
    assert skips() == kept


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    ("typed", "code", "words"),
    [
        (["skip", "by hand"], 2, ["is disabled", "daybook resume"]),
        (["skip", "nobody"], 3, ['"nobody" not found']),
        (["snooze", "weekly"], 2, ["UNTIL", "--off"]),
        (["snooze", "weekly", "in 2h", "--off"], 2, ["--off"]),
        (["snooze", "weekly", "2020-01-01"], 2, ["UNTIL", "2h, or tomorrow"]),
        (["snooze", "weekly", "2020-01-01T09:00"], 2, ["UNTIL", "in the past"]),
        (["snooze", "weekly", "whenever"], 2, ["UNTIL", "2h, or tomorrow"]),
        (["snooze", "weekly", "monday"], 2, ["UNTIL", "is ambiguous"]),
    ],
)
def test_an_invalid_skip_or_snooze_is_refused_with_a_hint(
    daybook: Any, typed: list[str], code: int, words: list[str]
) -> None:
    result = daybook(*typed)
    assert (result.code, result.out) == (code, "")
    for each in words:
        assert each in result.err


@pytest.mark.usefixtures("home")
def test_a_snooze_that_is_too_long_is_refused_for_its_length(daybook: Any) -> None:
    refused = daybook("snooze", "weekly", "99999999d")
    assert refused.code == 2
    assert "longer than 100 years" in refused.err
    assert "ambiguous" not in refused.err
