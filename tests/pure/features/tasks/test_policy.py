"""The options of the task scheduler, and when the escalation takes its steps."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from daybook.errors import InvalidInput
from daybook.features.tasks.policy import DEFAULTS, EscalationDue, SchedulerPolicy, escalate

STARVING = timedelta(minutes=2)


def steps(policy: SchedulerPolicy, queued_for: timedelta, cycles: int) -> list[tuple[int, str]]:
    """Return the steps that are due in ``cycles`` cycles, each with the number of its cycle."""
    count, taken = 0, list[tuple[int, str]]()
    for number in range(1, cycles + 1):
        owed = escalate(policy, queued_for, count, [step for _, step in taken])
        count = owed.cycles
        taken += [(number, step) for step in owed.steps]
    return taken


@pytest.mark.floor("D", "DefaultStarvationThresholds: 2, 4, 6 and 10 cycles")
def test_each_escalation_step_is_due_once_at_its_cycle() -> None:
    assert steps(SchedulerPolicy(), STARVING, 40) == [
        (2, "fan_out"),
        (4, "request_worker"),
        (6, "starved"),
        (10, "needs_attention"),
    ]


@pytest.mark.floor("D", "WithStarvationThresholds sets the cycles of the steps")
def test_a_policy_sets_the_cycles_of_its_steps() -> None:
    policy = SchedulerPolicy(fan_out=1, request_worker=2, starved=3, needs_attention=9)
    assert [number for number, _ in steps(policy, STARVING, 9)] == [1, 2, 3, 9]


def test_no_cycle_counts_before_starve_after() -> None:
    just = STARVING - timedelta(microseconds=1)
    assert escalate(SchedulerPolicy(), just, 0, ()) == EscalationDue(0, ())
    assert escalate(SchedulerPolicy(), STARVING, 0, ()) == EscalationDue(1, ())


def test_a_starve_after_of_zero_disables_escalation() -> None:
    off = SchedulerPolicy.of({"starve_after": 0})
    assert steps(off, timedelta(days=30), 50) == []
    assert SchedulerPolicy.of({"starve_after": "0"}).starve_after == timedelta(0)


def test_a_step_that_did_not_run_stays_due_along_with_later_steps() -> None:
    owed = escalate(SchedulerPolicy(), STARVING, 9, ["fan_out", "starved"])
    assert owed == EscalationDue(10, ("request_worker", "needs_attention"))


@pytest.mark.floor("D", "Thresholds that do not rise are refused")
@pytest.mark.parametrize(
    ("table", "field", "expected"),
    [
        ({"fan_out": 0}, "tasks.fan_out", "(use 1 or more)"),
        ({"fan_out": -2}, "tasks.fan_out", "(use 1 or more)"),
        ({"fan_out": 4}, "tasks.request_worker", "4 is not greater than fan_out (4)"),
        ({"starved": 3}, "tasks.starved", "3 is not greater than request_worker (4)"),
        ({"needs_attention": 6}, "tasks.needs_attention", "fan_out < request_worker < starved"),
        ({"starve_after": "soon"}, "tasks.starve_after", "soon"),
        ({"starve_after": "-2m"}, "tasks.starve_after", "-2m"),
        ({"fanout": 2}, "tasks.fanout", "fan_out"),
        ({"interval": 15}, "tasks.interval", "15 has no unit (write a duration such as 90s)"),
        ({"interval": "0s"}, "tasks.interval", "use 1s to 5m"),
        ({"interval": "6m"}, "tasks.interval", "use 1s to 5m"),
        ({"interval": "3m"}, "tasks.starve_after", "2m is less than interval (3m)"),
        ({"wake_cooldown": "2d"}, "tasks.wake_cooldown", "use 0s to 1d"),
        ({"wake_cooldown": -1}, "tasks.wake_cooldown", "-1 has no unit"),
        ({"wake_cooldown": "often"}, "tasks.wake_cooldown", "often"),
        ({"sweep_limit": 0}, "tasks.sweep_limit", "use 1 to 10000"),
        ({"sweep_limit": 10_001}, "tasks.sweep_limit", "use 1 to 10000"),
        ({"sweep_reason": "a\nb"}, "tasks.sweep_reason", "line"),
        ({"wake_reason": "x" * 101}, "tasks.wake_reason", "at most 100 characters"),
        ({"actor": " "}, "tasks.actor", "1 character"),
    ],
)
def test_an_invalid_policy_is_refused_with_its_field(
    table: dict[str, Any], field: str, expected: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        SchedulerPolicy.of(table)
    assert refused.value.field == field
    assert expected in str(refused.value)


def test_starve_after_is_a_duration() -> None:
    assert SchedulerPolicy.of({"starve_after": "90s"}).starve_after == timedelta(seconds=90)


@pytest.mark.floor("D", "WithInterval: 15 s by default")
@pytest.mark.floor("D", "WithWakeCooldown: 60 s by default, per run and session")
@pytest.mark.floor("D", "WithStarvationAge: 2 minutes by default")
def test_a_policy_without_options_has_the_defaults() -> None:
    assert SchedulerPolicy.of({}) == DEFAULTS
    assert (DEFAULTS.interval, DEFAULTS.wake_cooldown) == (timedelta(seconds=15), timedelta(0, 60))
    assert (DEFAULTS.starve_after, DEFAULTS.sweep_limit) == (timedelta(minutes=2), 100)
    assert (DEFAULTS.actor, DEFAULTS.sweep_reason, DEFAULTS.wake_reason) == ("scheduler", "", "")


def test_all_options_are_read_together() -> None:
    policy = SchedulerPolicy.of(
        {
            "interval": "3m",
            "starve_after": "0",
            "wake_cooldown": "0",
            "sweep_limit": 5,
            "sweep_reason": "nightly sweep",
            "wake_reason": " team blue ",
            "actor": "ops",
        }
    )
    assert (policy.interval, policy.wake_cooldown) == (timedelta(minutes=3), timedelta(0))
    assert policy.sweep_text("late") == "nightly sweep: late"
    assert policy.wake_text("queued for 2 minutes") == "team blue: queued for 2 minutes"
    assert DEFAULTS.wake_text("queued for 2 minutes") == "queued for 2 minutes"
