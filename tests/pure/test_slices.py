"""Slices of the slow tests (`make test-rest SLICE=k/n`)."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.costs import chosen_slice, slices


def test_each_file_is_in_one_slice_and_the_slices_cost_about_the_same() -> None:
    costs = {f"test_{n}.py": float(n % 17 + 1) for n in range(200)}
    files = [*costs, *(f"test_new_{n}.py" for n in range(10))]

    found = slices(files, costs, 5)

    assert Counter(file for part in found for file in part) == Counter(files)
    totals = [sum(costs.get(file, 1.0) for file in part) for part in found]
    assert max(totals) - min(totals) <= 1.0


def test_a_new_file_of_tests_moves_no_expensive_file_to_another_slice() -> None:
    costs = {"test_slow.py": 40.0, "test_medium.py": 20.0}

    before = slices(costs, costs, 2)
    after = slices([*costs, "test_new.py"], costs, 2)

    assert [part - {"test_new.py"} for part in after] == before


def test_a_slice_is_a_part_of_a_whole() -> None:
    assert chosen_slice("2/5") == (2, 5)
    for text in ("0/5", "6/5", "2", "2/", "/5", "a/b", "2/0", "-1/5"):
        with pytest.raises(pytest.UsageError, match="write k/n"):
            chosen_slice(text)
