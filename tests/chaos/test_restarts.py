"""Check of the chaos test's restart: it finds missing catch-ups and runs that ran twice."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from chaos import restarts
from chaos.restarts import BEFORE_KILL_SECONDS, Restart, draw_restart, latest_in_window
from chaos.workload import Workload, is_due
from daybook.ledger.tables import RunRow

NOON = datetime(2026, 1, 15, 12, 0, tzinfo=UTC)
KILLED = NOON + timedelta(minutes=10)
RESTART = Restart(KILLED, 600.0, 8, ({"cron": "50 9,17,25,33 * * * *"},))
SCHEDULE = {"kind": "cron", "expr": "50 9,17,25,33 * * * *"}
HEALTHY = KILLED + timedelta(minutes=10, seconds=20)
LATEST = NOON.replace(minute=17, second=50)


def _row(due: datetime, status: str, **fields: Any) -> RunRow:
    given: dict[str, Any] = {
        "occurrence": f"due:1:{due:%H:%M:%S}",
        "kind": "webhook",
        "trigger": "schedule",
    }
    ended = HEALTHY + timedelta(minutes=2)
    return RunRow(
        **given, job_id="1", due=due, status=status, queued_at=due, finished_at=ended, **fields
    )


LOST = _row(NOON.replace(minute=9, second=50), "unknown", attempts=1)


def _violations(*rows: RunRow) -> list[str]:
    workload = Workload(RESTART.end, {"job": "1"})
    return restarts.violations(workload, {"1": SCHEDULE}, rows, RESTART, HEALTHY)


@pytest.mark.parametrize("after", [20.0, 60.0, 300.0, 600.0])
@pytest.mark.parametrize("seed", range(5))
def test_each_job_is_due_before_the_kill_and_again_before_it_is_too_late(
    seed: int, after: float
) -> None:
    restart = draw_restart(random.Random(seed), 8, after, NOON + timedelta(seconds=seed * 1000))
    healthy_at = restart.at + timedelta(seconds=after + 15)
    for each in restart.schedules:
        schedule = {"kind": "cron", "expr": each["cron"]}
        before = [
            restart.at - timedelta(seconds=step) for step in range(1, int(BEFORE_KILL_SECONDS) + 1)
        ]
        assert [is_due(schedule, second) for second in before].count(True) == 1
        latest = latest_in_window(schedule, restart, healthy_at)
        assert latest is not None
        assert latest > restart.at


def test_a_due_time_that_ran_is_no_violation() -> None:
    assert _violations(LOST, _row(LATEST, "succeeded", attempts=1)) == []


def test_a_due_time_skipped_for_its_killed_predecessor_is_found() -> None:
    reason = "overlap: run 12345678 of 12:09:50 was still running"
    (found,) = _violations(LOST, _row(LATEST, "skipped", reason=reason))
    assert found == f"the latest due time did not run: job 12:17:50: skipped ({reason})"


def test_a_due_time_without_a_row_or_missed_is_found() -> None:
    assert _violations(LOST) == ["the latest due time did not run: job 12:17:50: no row"]
    assert len(_violations(LOST, _row(LATEST, "missed"))) == 1


def test_a_due_time_skipped_for_a_later_one_that_ran_is_no_violation() -> None:
    later = _row(LATEST + timedelta(minutes=2), "succeeded", attempts=1)
    assert _violations(LOST, _row(LATEST, "skipped"), later) == []


def test_a_run_that_ran_twice_is_found_unless_its_job_reruns() -> None:
    twice = _row(LATEST, "succeeded", attempts=2)
    assert _violations(LOST, twice) == ["ran 2 times: due:1:12:17:50"]
    again = {"policy": {"on_lost": "rerun"}}
    assert _violations(LOST, _row(LATEST, "succeeded", attempts=2, parameters=again)) == []


def test_a_kill_that_hit_no_run_is_found() -> None:
    before = _row(LOST.due, "succeeded", attempts=1)
    (found,) = _violations(before, _row(LATEST, "succeeded", attempts=1))
    assert found == "nothing was running when everything was killed"
