"""`skip` and `snooze`, and what `next`, `show` and `list` say then."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.unit.cli.conftest import fill

Home = Path


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("DAYBOOK_HOME", str(tmp_path))
    monkeypatch.setenv("DAYBOOK_TIMEZONE", "Europe/Berlin")
    asyncio.run(fill(tmp_path / "ledger.db"))
    return tmp_path


def _next(daybook: Any, count: int = 3) -> list[str]:
    said = daybook("next", "weekly", "--count", str(count), "--json")
    return [each["local"] for each in said.json["due"]]


@pytest.mark.usefixtures("home")
def test_the_next_is_skipped_once_however_often_it_is_typed(daybook: Any) -> None:
    before = _next(daybook)

    first = daybook("skip", "weekly", "--json").json
    again = daybook("skip", "weekly", "--json").json

    assert first["skips"] == [before[0]]
    assert first["next_due"][:2] == before[1:3]
    assert again["skips"] == first["skips"] == daybook("show", "weekly", "--json").json["skips"]
    assert _next(daybook, 2) == before[1:3]
    told = daybook("skip", "weekly")
    assert (told.code, told.err) == (0, "")
    assert "skips" in told.out
    assert daybook("skip", "weekly", "--undo", "--json").json["skips"] == []
    assert _next(daybook) == before


@pytest.mark.usefixtures("home")
def test_snoozed_and_awake_again(daybook: Any) -> None:
    before = _next(daybook)

    snoozed = daybook("snooze", "weekly", before[1], "--json").json

    assert snoozed["snoozed_until"] == before[1]
    assert snoozed["next_due"][:2] == before[1:3]  # at that very time it runs
    assert "snoozed" in daybook("show", "weekly").out
    skipped = daybook("skip", "weekly", "--json").json
    assert skipped["skips"] == [before[1]]
    daybook("skip", "weekly", "--undo")
    assert daybook("snooze", "weekly", "--off", "--json").json["snoozed_until"] is None
    assert _next(daybook) == before


def test_what_was_put_off_and_has_passed_is_not_said(daybook: Any, home: Home) -> None:
    with closing(sqlite3.connect(home / "ledger.db")) as book, book:
        past = "skips = '[\"2026-11-02T08:00:00+00:00\"]', snoozed_until = '2026-11-03 08:00:00'"
        book.execute(f"UPDATE jobs SET {past} WHERE name = 'weekly'")
    found = daybook("show", "weekly", "--json").json
    assert (found["skips"], found["snoozed_until"]) == ([], None)


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    ("typed", "code", "words"),
    [
        (["skip", "by hand"], 2, ["is disabled", "daybook resume"]),
        (["skip", "nobody"], 3, ['"nobody" not found']),
        (["snooze", "weekly"], 2, ["UNTIL", "--off"]),
        (["snooze", "weekly", "in 2h", "--off"], 2, ["--off"]),
        (["snooze", "weekly", "2020-01-01"], 2, ["UNTIL", "in 2h"]),
        (["snooze", "weekly", "2020-01-01T09:00"], 2, ["UNTIL", "in the past"]),
        (["snooze", "weekly", "2h"], 2, ["UNTIL", "in 2h"]),
    ],
)
def test_refused(daybook: Any, typed: list[str], code: int, words: list[str]) -> None:
    said = daybook(*typed)
    assert (said.code, said.out) == (code, "")
    for each in words:
        assert each in said.err
