"""The conflict table of `compare`, cell by cell, and every mixture of three values."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import pytest

from daybook.prefect.diff import Difference, compare, differing_fields
from daybook.prefect.projection import Projection

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


def test_where_there_is_no_deployment_nothing_is_taken_over_and_all_is_sent() -> None:
    for base in (None, A.as_dict()):
        assert compare(A, base, None) == Difference()
    assert differing_fields(A, None) == set(FIELDS)


@pytest.mark.parametrize("base", [None, A.as_dict(), replace(A, tags=["z"]).as_dict()])
def test_equal_sides_need_nothing_whatever_was_agreed(base: dict[str, Any] | None) -> None:
    assert compare(A, base, A) == Difference()
    assert differing_fields(A, A) == set()


@pytest.mark.parametrize("name", FIELDS)
def test_one_side_changed(name: str) -> None:
    changed = replace(A, **{name: OTHER[name][0]})
    assert compare(A, A.as_dict(), changed) == Difference(pull=(name,))
    assert compare(changed, A.as_dict(), A) == Difference()
    assert compare(changed, None, A) == Difference(conflicts={name: A.as_dict()[name]})
    assert differing_fields(changed, A) == {name}


@pytest.mark.parametrize("name", [name for name in FIELDS if len(OTHER[name]) > 1])
def test_both_changed(name: str) -> None:
    ours, theirs = (replace(A, **{name: value}) for value in OTHER[name])
    expected = Difference(conflicts={name: OTHER[name][1]})
    assert compare(ours, A.as_dict(), theirs) == expected
    assert compare(ours, None, theirs) == expected


def test_a_foreign_schedule_is_left_unless_ours_changed_too() -> None:
    theirs = replace(A, schedule=FOREIGN)
    # The job has due times of its own, which Prefect will not queue any more.
    assert compare(A, A.as_dict(), theirs) == Difference(pull=("schedule",))
    assert differing_fields(A, theirs) == {"schedule"}
    ours = replace(A, schedule={})
    assert compare(ours, ours.as_dict(), theirs) == Difference()
    assert compare(ours, None, theirs) == Difference()
    assert compare(ours, A.as_dict(), theirs) == Difference()
    assert differing_fields(ours, theirs) == set()
    other = replace(A, schedule=OTHER["schedule"][0])
    assert compare(other, A.as_dict(), theirs) == Difference(conflicts={"schedule": FOREIGN})


def test_fields_are_judged_apart() -> None:
    ours = replace(A, tags=["ours"], parameters={"prompt": "ours"})
    theirs = replace(A, enabled=False, parameters={"prompt": "theirs"}, schedule=FOREIGN)
    assert compare(ours, A.as_dict(), theirs) == Difference(
        pull=("enabled", "schedule"), conflicts={"parameters": {"prompt": "theirs"}}
    )


def test_no_edit_is_overwritten_untold() -> None:
    values = ["a", "b", "c"]
    for ours, base, theirs in product(values, [*values, None], values):
        mine, held = replace(A, description=ours), replace(A, description=theirs)
        todo = compare(mine, None if base is None else replace(A, description=base).as_dict(), held)
        is_sent = bool(differing_fields(mine, held)) and not todo.pull
        assert bool(todo.conflicts) == (is_sent and theirs != base)
        assert not (todo.pull and todo.conflicts)
