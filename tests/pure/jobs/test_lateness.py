"""Lateness (`promise.md`, rule 9): on time, late and run, late and missed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from daybook.jobs.lateness import judge, window
from daybook.policies.policy import CatchUp, Policy
from daybook.schedules.schedule import At, Cron, Every, OnDemand

DUE = datetime(2026, 11, 20, 9, tzinfo=UTC)
DAILY = Cron(expr="0 9 * * *", timezone="UTC")
HOURLY = Cron(expr="0 * * * *", timezone="UTC")
QUICK = Every(every=timedelta(seconds=15), anchor=DUE - timedelta(seconds=15), timezone="UTC")
ONCE = At(at=DUE, timezone="UTC")


@pytest.mark.parametrize(
    ("schedule", "late", "verdict", "reason"),
    [
        (DAILY, -1, "on_time", ""),
        (DAILY, 0, "on_time", ""),
        (DAILY, 60, "on_time", ""),
        (DAILY, 61, "run", "1 minute 1 second late"),
        (DAILY, 7_200, "run", "2 hours late"),
        (DAILY, 7_201, "missed", "2 hours 1 second late, and the window is 2 hours"),
        (DAILY, 86_400, "missed", "1 day late, and a later due time has passed"),
        (HOURLY, 1_800, "run", "30 minutes late"),
        (HOURLY, 1_801, "missed", "30 minutes 1 second late, and the window is 30 minutes"),
        (HOURLY, 3_600, "missed", "1 hour late, and a later due time has passed"),
        (QUICK, 60, "on_time", ""),  # three later due times have passed, and it is still on time
        (QUICK, 61, "missed", "1 minute 1 second late, and a later due time has passed"),
        (ONCE, 86_400, "run", "1 day late"),
        (ONCE, 86_401, "missed", "1 day 1 second late, and the window is 1 day"),
    ],
)
def test_a_late_due_time_runs_or_is_missed_by_the_window_of_its_schedule(
    schedule: Cron | Every | At, late: int, verdict: str, reason: str
) -> None:
    judged = judge(schedule, DUE, DUE + timedelta(seconds=late))
    assert (judged.verdict, judged.reason) == (verdict, reason)
    assert judged.runs is (verdict != "missed")


NONE = "and the job does not catch up"
DAY = "1 day 1 second late, and the job only catches up on the last 24 hours"


@pytest.mark.parametrize("schedule", [DAILY, HOURLY, QUICK, ONCE])
@pytest.mark.parametrize(
    ("catch_up", "late", "verdict", "reason"),
    [
        ("none", 60, "on_time", ""),
        ("none", 61, "missed", f"1 minute 1 second late, {NONE}"),
        ("all", 60, "on_time", ""),
        ("all", 61, "run", "1 minute 1 second late"),
        ("all", 86_400, "run", "1 day late"),
        ("all", 86_401, "missed", DAY),
    ],
)
def test_catch_up_none_and_all_do_not_depend_on_the_schedule(
    schedule: Cron | Every | At, catch_up: CatchUp, late: int, verdict: str, reason: str
) -> None:
    judged = judge(schedule, DUE, DUE + timedelta(seconds=late), Policy(catch_up=catch_up))
    assert (judged.verdict, judged.reason) == (verdict, reason)


@pytest.mark.parametrize(
    ("schedule", "seconds"),
    [
        (DAILY, 7_200),
        (HOURLY, 1_800),
        (Cron(expr="*/3 * * * *", timezone="UTC"), 90),
        (QUICK, 60),
        (ONCE, 86_400),
        (OnDemand(timezone="UTC"), 7_200),
    ],
)
def test_the_window_depends_on_the_gap_between_due_times(
    schedule: Cron | Every | At | OnDemand, seconds: int
) -> None:
    assert window(schedule, DUE) == timedelta(seconds=seconds)
