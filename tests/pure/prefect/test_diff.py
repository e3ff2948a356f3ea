"""The conflict table of `compare`: each cell, and every combination of three values."""

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


def test_without_a_deployment_all_fields_are_written_and_none_imported() -> None:
    for base in (None, A.as_dict()):
        assert compare(A, base, None) == Difference()
    assert differing_fields(A, None) == set(FIELDS)


@pytest.mark.parametrize("base", [None, A.as_dict(), replace(A, tags=["z"]).as_dict()])
def test_equal_sides_have_no_difference_whatever_the_last_agreement(
    base: dict[str, Any] | None,
) -> None:
    assert compare(A, base, A) == Difference()
    assert differing_fields(A, A) == set()


@pytest.mark.parametrize("name", FIELDS)
def test_a_change_on_one_side_is_imported_or_written(name: str) -> None:
    changed = replace(A, **{name: OTHER[name][0]})
    assert compare(A, A.as_dict(), changed) == Difference(pull=(name,))
    assert compare(changed, A.as_dict(), A) == Difference()
    assert compare(changed, None, A) == Difference(conflicts={name: A.as_dict()[name]})
    assert differing_fields(changed, A) == {name}


@pytest.mark.parametrize("name", [name for name in FIELDS if len(OTHER[name]) > 1])
def test_a_change_on_both_sides_is_a_conflict(name: str) -> None:
    local, theirs = (replace(A, **{name: value}) for value in OTHER[name])
    expected = Difference(conflicts={name: OTHER[name][1]})
    assert compare(local, A.as_dict(), theirs) == expected
    assert compare(local, None, theirs) == expected


def test_an_external_schedule_is_kept_unless_the_ledgers_changed_too() -> None:
    theirs = replace(A, schedule=FOREIGN)
    # The job has due times in the ledger that Prefect no longer queues.
    assert compare(A, A.as_dict(), theirs) == Difference(pull=("schedule",))
    assert differing_fields(A, theirs) == {"schedule"}
    local = replace(A, schedule={})
    assert compare(local, local.as_dict(), theirs) == Difference()
    assert compare(local, None, theirs) == Difference()
    assert compare(local, A.as_dict(), theirs) == Difference()
    assert differing_fields(local, theirs) == set()
    other = replace(A, schedule=OTHER["schedule"][0])
    assert compare(other, A.as_dict(), theirs) == Difference(conflicts={"schedule": FOREIGN})


def test_each_field_is_compared_separately() -> None:
    local = replace(A, tags=["ours"], parameters={"prompt": "ours"})
    theirs = replace(A, enabled=False, parameters={"prompt": "theirs"}, schedule=FOREIGN)
    assert compare(local, A.as_dict(), theirs) == Difference(
        pull=("enabled", "schedule"), conflicts={"parameters": {"prompt": "theirs"}}
    )


def test_each_overwritten_edit_is_reported_as_a_conflict() -> None:
    values = ["a", "b", "c"]
    for local, base, theirs in product(values, [*values, None], values):
        local_job, held = replace(A, description=local), replace(A, description=theirs)
        todo = compare(
            local_job, None if base is None else replace(A, description=base).as_dict(), held
        )
        is_sent = bool(differing_fields(local_job, held)) and not todo.pull
        assert bool(todo.conflicts) == (is_sent and theirs != base)
        assert not (todo.pull and todo.conflicts)
