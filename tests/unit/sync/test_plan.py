"""The conflict table of `plan`, cell by cell, and every mixture of three values."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import pytest

from daybook.sync.plan import Plan, differing, plan
from daybook.sync.projection import Projection

A = Projection(
    enabled=True,
    schedule={"cron": "0 9 * * *", "timezone": "UTC"},
    parameters={"prompt": "a"},
    tags=["a"],
    description="a",
)
OTHER: dict[str, list[Any]] = {
    "enabled": [False],
    "schedule": [{"at": "20300101T000000"}, {}],
    "parameters": [{"prompt": "b"}, {"prompt": "c"}],
    "tags": [["b"], []],
    "description": ["b", ""],
}
FOREIGN = {"foreign": "rrule …"}
FIELDS = list(OTHER)


def test_no_deployment_is_created() -> None:
    assert plan(A, None, None) == Plan(create=True)
    assert plan(A, A.as_dict(), None) == Plan(create=True)
    assert plan(A, None, None).writes


@pytest.mark.parametrize("base", [None, A.as_dict(), replace(A, tags=["z"]).as_dict()])
def test_equal_sides_need_nothing_whatever_was_agreed(base: dict[str, Any] | None) -> None:
    assert plan(A, base, A) == Plan()
    assert not plan(A, base, A).writes


@pytest.mark.parametrize("name", FIELDS)
def test_one_side_changed(name: str) -> None:
    changed = replace(A, **{name: OTHER[name][0]})
    assert plan(A, A.as_dict(), changed) == Plan(pull=(name,))
    assert plan(changed, A.as_dict(), A) == Plan(push=(name,))
    lost = Plan(push=(name,), conflicts={name: A.as_dict()[name]})
    assert plan(changed, None, A) == lost
    assert not plan(A, A.as_dict(), changed).writes
    assert plan(changed, A.as_dict(), A).writes


@pytest.mark.parametrize("name", [name for name in FIELDS if len(OTHER[name]) > 1])
def test_both_changed(name: str) -> None:
    ours, theirs = (replace(A, **{name: value}) for value in OTHER[name])
    expected = Plan(push=(name,), conflicts={name: OTHER[name][1]})
    assert plan(ours, A.as_dict(), theirs) == expected
    assert plan(ours, None, theirs) == expected


def test_a_foreign_schedule_is_left_unless_ours_changed_too() -> None:
    theirs = replace(A, schedule=FOREIGN)
    # The job has due times of its own, which Prefect will not queue any more.
    assert plan(A, A.as_dict(), theirs) == Plan(pull=("schedule",))
    assert differing(A, theirs) == {"schedule"}
    ours = replace(A, schedule={})
    assert plan(ours, ours.as_dict(), theirs) == Plan(leave=("schedule",))
    assert plan(ours, None, theirs) == Plan(leave=("schedule",))
    assert differing(ours, theirs) == set()
    conflict = Plan(push=("schedule",), conflicts={"schedule": FOREIGN})
    assert plan(ours, A.as_dict(), theirs) == conflict


def test_fields_are_judged_apart() -> None:
    ours = replace(A, tags=["ours"], parameters={"prompt": "ours"})
    theirs = replace(A, enabled=False, parameters={"prompt": "theirs"}, schedule=FOREIGN)
    assert plan(ours, A.as_dict(), theirs) == Plan(
        push=("parameters", "tags"),
        pull=("enabled", "schedule"),
        conflicts={"parameters": {"prompt": "theirs"}},
    )


def test_each_differing_field_is_in_exactly_one_list_and_no_edit_is_lost_untold() -> None:
    values = ["a", "b", "c"]
    for ours, base, theirs in product(values, [*values, None], values):
        todo = plan(
            replace(A, description=ours),
            None if base is None else replace(A, description=base).as_dict(),
            replace(A, description=theirs),
        )
        lists = [name for part in (todo.push, todo.pull, todo.leave) for name in part]
        assert lists == (["description"] if ours != theirs else [])
        overwritten = bool(todo.push) and theirs != base
        assert bool(todo.conflicts) == overwritten
