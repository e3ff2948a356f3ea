"""Which waiting rows a pass compares with Prefect, although an earlier pass found them on time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from daybook.ledger.tables import RunRow
from daybook.prefect import scheduled_runs
from daybook.prefect.scheduled_runs import OnTimeRows

NOW = datetime(2026, 12, 1, 9, tzinfo=UTC)


def waiting_row(name: str) -> RunRow:
    of_job: dict[str, Any] = {
        "occurrence": name,
        "kind": "webhook",
        "trigger": "schedule",
        "due": NOW,
    }
    waiting: dict[str, Any] = {
        "status": "waiting",
        "queued_at": NOW,
        "until": NOW,
        "waits_for": "slot",
    }
    return RunRow(id=name, flow_run_id=f"flow-{name}", fence=1, **of_job, **waiting)


def read_pass(known: OnTimeRows, rows: list[RunRow], *late: str) -> str:
    """Return the names of the rows that a pass reads; all but those of ``late`` are on time."""
    read = known.choose(rows)
    known.update(read, {str(row.flow_run_id) for row in read if row.id not in late})
    return "".join(row.id for row in read)


@pytest.fixture(autouse=True)
def two_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduled_runs, "READ_AGAIN", 2)


def test_rows_that_are_on_time_are_read_in_turn() -> None:
    known, rows = OnTimeRows(), [waiting_row(name) for name in "uvwxy"]
    assert [read_pass(known, rows) for _ in range(5)] == ["uvwxy", "uv", "wx", "uy", "vw"]


def test_rows_that_are_not_on_time_are_read_in_each_pass() -> None:
    known, rows = OnTimeRows(), [waiting_row(name) for name in "uvwxy"]
    assert read_pass(known, rows, "x") == "uvwxy"
    assert read_pass(known, rows, "u", "x") == "uvx"
    assert read_pass(known, rows) == "uwxy"  # the others that were on time are read in turn


@pytest.mark.parametrize(
    "change",
    [
        {"until": NOW + timedelta(seconds=1)},
        {"fence": 2},
        {"flow_run_id": "another"},
        {"waits_for": "label"},
    ],
)
def test_a_row_that_has_changed_is_read_again_at_once(change: dict[str, object]) -> None:
    known, rows = OnTimeRows(), [waiting_row(name) for name in "uvwx"]
    read_pass(known, rows)
    for name, value in change.items():
        setattr(rows[3], name, value)
    assert read_pass(known, rows) == "uvx"


def test_rows_that_wait_no_more_are_forgotten() -> None:
    known, rows = OnTimeRows(), [waiting_row(name) for name in "uvwx"]
    read_pass(known, rows)
    assert read_pass(known, rows[3:]) == "x"
    assert read_pass(known, rows) == "uvwx"


def test_all_of_many_rows_are_read_again_in_twelve_passes() -> None:
    known, rows = OnTimeRows(), [waiting_row(f"{number:03}") for number in range(100)]
    read_pass(known, rows)
    passes = [read_pass(known, rows) for _ in range(12)]
    assert len(passes[0]) == 9 * 3
    assert {row.id for row in rows} <= {
        each[at : at + 3] for each in passes for at in range(0, len(each), 3)
    }
