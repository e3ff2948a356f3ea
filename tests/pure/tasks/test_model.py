"""The fields of tasks and task sessions, and when the escalation policy takes its steps."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from daybook.errors import InvalidInput
from daybook.tasks import model
from daybook.tasks.model import EscalationPolicy, escalate

STARVING = timedelta(minutes=2)


def steps(policy: EscalationPolicy, queued_for: timedelta, cycles: int) -> list[tuple[int, str]]:
    """Return the steps that are due in ``cycles`` cycles, each with the number of its cycle."""
    count, taken = 0, list[tuple[int, str]]()
    for number in range(1, cycles + 1):
        owed = escalate(policy, queued_for, count, [step for _, step in taken])
        count = owed.cycles
        taken += [(number, step) for step in owed.steps]
    return taken


def test_each_escalation_step_is_due_once_at_its_cycle() -> None:
    assert steps(EscalationPolicy(), STARVING, 40) == [
        (2, "fan_out"),
        (4, "request_worker"),
        (6, "starved"),
        (10, "needs_attention"),
    ]


def test_a_policy_sets_the_cycles_of_its_steps() -> None:
    policy = EscalationPolicy(fan_out=1, request_worker=2, starved=3, needs_attention=9)
    assert [number for number, _ in steps(policy, STARVING, 9)] == [1, 2, 3, 9]


def test_no_cycle_counts_before_starve_after() -> None:
    just = STARVING - timedelta(microseconds=1)
    assert escalate(EscalationPolicy(), just, 0, ()) == model.EscalationDue(0, ())
    assert escalate(EscalationPolicy(), STARVING, 0, ()) == model.EscalationDue(1, ())


def test_a_starve_after_of_zero_disables_escalation() -> None:
    off = EscalationPolicy.of({"starve_after": 0})
    assert steps(off, timedelta(days=30), 50) == []
    assert EscalationPolicy.of({"starve_after": "0"}).starve_after == timedelta(0)


def test_a_step_that_did_not_run_stays_due_along_with_later_steps() -> None:
    owed = escalate(EscalationPolicy(), STARVING, 9, ["fan_out", "starved"])
    assert owed == model.EscalationDue(10, ("request_worker", "needs_attention"))


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
    ],
)
def test_an_invalid_policy_is_refused_with_its_field(
    table: dict[str, Any], field: str, expected: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        EscalationPolicy.of(table)
    assert refused.value.field == field
    assert expected in str(refused.value)


def test_starve_after_is_a_duration() -> None:
    assert EscalationPolicy.of({"starve_after": "90s"}).starve_after == timedelta(seconds=90)


def test_priorities_are_ordered_from_urgent_to_low() -> None:
    assert [model.priority_index(word) for word in ("urgent", "high", "medium", "low")] == [
        0,
        1,
        2,
        3,
    ]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("", ""),
        (" user ", "user"),
        ("agent:scout", "agent:scout"),
        ("session: night shift ", "session:night shift"),
    ],
)
def test_an_owner_is_normalized(given: str, expected: str) -> None:
    assert model.check_owner(given) == expected


def test_capabilities_are_sorted_without_duplicates() -> None:
    assert model.check_capabilities(["python", " git ", "python"]) == ["git", "python"]


@pytest.mark.parametrize(
    ("lease", "expected"),
    [(None, 300), ("60s", 60), ("1s", 1), ("24h", 86_400), (timedelta(minutes=2), 120)],
)
def test_a_lease_is_a_duration_with_a_default_of_five_minutes(
    lease: timedelta | str | None, expected: int
) -> None:
    assert model.lease_duration(lease) == timedelta(seconds=expected)


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda: model.priority_index("now"), "priority"),
        (lambda: model.check_owner("plugin"), "owner"),
        (lambda: model.check_owner("agent:"), "owner"),
        (lambda: model.check_owner("agent:a:b"), "owner"),
        (lambda: model.check_owner("session:"), "owner"),
        (lambda: model.check_capabilities(["two words"]), "capabilities"),
        (lambda: model.check_capabilities([""]), "capabilities"),
        (lambda: model.check_capabilities(["x" * 65], "preferred"), "preferred"),
        (lambda: model.check_capabilities([f"c{number}" for number in range(51)]), "capabilities"),
        (lambda: model.check_state("busy"), "state"),
        (lambda: model.lease_duration("24h1s"), "lease"),
        (lambda: model.lease_duration(timedelta(milliseconds=999)), "lease"),
        (lambda: model.lease_duration("soon"), "lease"),
        (lambda: model.check_word("two\nlines", "workspace"), "workspace"),
        (lambda: model.check_text("x" * 20_001, "output"), "output"),
    ],
)
def test_an_invalid_value_is_refused_with_its_field(call: Callable[[], object], field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        call()
    assert refused.value.field == field
