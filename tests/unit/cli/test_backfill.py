"""`backfill` and `run --dry-run`, which need no Prefect."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.unit.cli.conftest import fill

FROM_TO = ("--from", "2026-11-02", "--to", "2026-11-16")
MONDAYS = [f"2026-11-{day:02}T09:00:00+01:00" for day in (2, 9, 16)]
"""Of `weekly`, at 09:00 in Berlin."""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DAYBOOK_HOME", str(tmp_path))
    monkeypatch.setenv("DAYBOOK_TIMEZONE", "Europe/Berlin")
    asyncio.run(fill(tmp_path / "ledger.db"))
    return tmp_path


def _rows(home: Path) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(home / "ledger.db")) as connection:
        return connection.execute(
            "SELECT occurrence, due, status FROM runs ORDER BY due"
        ).fetchall()


def test_a_dry_run_shows_and_writes_nothing(daybook: Any, home: Path) -> None:
    before = _rows(home)

    found = daybook("backfill", "weekly", *FROM_TO, "--dry-run", "--json").json

    assert [each["local"] for each in found["due"]] == MONDAYS
    assert (found["job"], found["dry_run"], found["asked"], found["left_out"]) == (
        *("weekly", True, 3, 0),
    )
    result = daybook("backfill", "weekly", *FROM_TO, "--dry-run")
    assert "weekly: 3 would be run, 0 left out" in result.out
    assert _rows(home) == before


def test_a_repeated_backfill_requests_each_run_once(daybook: Any, home: Path) -> None:
    assert daybook("backfill", "weekly", *FROM_TO, "--json").json["asked"] == 3
    again = daybook("backfill", "weekly", *FROM_TO, "--json").json
    assert (again["asked"], again["left_out"]) == (0, 3)
    assert [each["status"] for each in again["due"]] == ["waiting"] * 3
    asked = [row for row in _rows(home) if ":backfill-" in row[0]]
    assert len(asked) == 3
    listed = daybook("runs", "weekly", "--json").json
    assert daybook("runs", "--job", "weekly", "--json").json == listed
    assert [run["trigger"] for run in listed].count("backfill") == 3


def test_a_dry_run_does_not_count_runs_of_an_earlier_backfill_that_failed(
    daybook: Any, home: Path
) -> None:
    assert daybook("backfill", "weekly", *FROM_TO, "--json").json["asked"] == 3
    with closing(sqlite3.connect(home / "ledger.db")) as connection, connection:
        connection.execute("UPDATE runs SET status = 'failed' WHERE trigger = 'backfill'")
    for more in (("--dry-run",), ()):
        counted = daybook("backfill", "weekly", *FROM_TO, *more, "--json").json
        assert (counted["asked"], counted["left_out"]) == (0, 3)


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    ("job", "start", "end", "words"),
    [
        ("by hand", "2026-11-02", "2026-11-03", ["is disabled", "daybook resume"]),
        ("weekly", "2099-01-01", "2099-02-01", ["--from", "is in the future"]),
        ("weekly", "2026-11-03", "2026-11-02", ["--to", "is before the start"]),
        ("weekly", "", "2026-11-02", ["--from", "2026-11-01"]),
        ("weekly", "last week", "2026-11-02", ["--from", "2026-11-01"]),
        ("weekly", "1980-01-01", "2026-11-02", ["--from", "more than 1,000", "shorter"]),
    ],
)
def test_an_invalid_backfill_is_refused_with_a_hint(
    daybook: Any, job: str, start: str, end: str, words: list[str]
) -> None:
    result = daybook("backfill", job, f"--from={start}", f"--to={end}")
    assert (result.code, result.out) == (2, "")
    for each in words:
        assert each in result.err


def test_run_dry_run_shows_the_action_of_the_run_and_stores_nothing(
    daybook: Any, home: Path
) -> None:
    before = _rows(home)

    found = daybook("run", "often", "--dry-run", "--json").json

    assert (found["job"], found["kind"], found["dry_run"]) == ("often", "agent-prompt", True)
    assert (found["does"]["prompt"], found["does"]["model"]) == ("Say hello.", "small")
    assert (found["session_id"], found["history"]) == ("default:team", 0)
    assert (found["cost_usd"], found["recipients"]) == (None, {"failed": ["inbox"]})
    assert _rows(home) == before
    result = daybook("run", "often", "--dry-run")
    assert "Say hello." in result.out
    assert "not estimated" in result.out
    assert "failed → inbox" in result.out
    assert len(re.findall(r"^  session +", result.out, re.MULTILINE)) == 2  # key and id
    assert daybook("run", "often", "--dry-run", "--wait").code == 2
