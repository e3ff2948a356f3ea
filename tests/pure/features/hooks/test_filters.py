"""Filters of hooks: which payloads fit, and which texts are filters."""

from __future__ import annotations

import pytest

from daybook.errors import InvalidInput
from daybook.features.hooks.filters import MAX_FILTER_LENGTH, first_mismatch

PAYLOAD = {
    "action": "opened",
    "number": 5,
    "draft": False,
    "total": 12.0,
    "zero": -0.0,
    "repository": {"full_name": "acme/shop", "topics": ["a", "b"]},
    "commits": [{"id": "c1"}],
    "note": 'a == b and "c"',
}


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("action == opened", True),
        ('action == "opened"', True),
        ("action==opened", True),
        ("action == closed", False),
        ("repository.full_name == acme/shop", True),
        ("number == 5", True),
        ('number == "5"', False),
        ("total == 12", True),
        ("zero == 0", True),
        ("number == 1e999", False),
        ("draft == false", True),
        ("draft == 0", False),
        ("number == true", False),
        ("commits.0.id == c1", True),
        ("commits.1.id == c1", False),
        ("commits.x == c1", False),
        ("missing.deeper == null", True),
        ("missing == opened", False),
        ('repository.topics == ["a", "b"]', True),
        ('note == a == b and "c"', True),
    ],
)
def test_a_payload_fits_a_filter_if_the_values_are_equal(text: str, fits: bool) -> None:
    assert first_mismatch([text], PAYLOAD) == ("" if fits else text)


def test_all_filters_have_to_fit_and_any_json_is_a_payload() -> None:
    assert not first_mismatch(["action == opened", "number == 5"], PAYLOAD)
    assert first_mismatch(["action == opened", "number == 6"], PAYLOAD) == "number == 6"
    for payload in (None, 7, "opened", [], [["action", "opened"]]):
        assert first_mismatch(["action == opened"], payload) == "action == opened"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "action",
        "action = opened",
        "action ==",
        "== opened",
        "a..b == c",
        "a b == c",
        "__import__('os').system('x') == 0",
        "a[0] == b",
        "action == " + "x" * MAX_FILTER_LENGTH,
    ],
)
def test_a_text_that_is_no_filter_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"repository\.full_name == acme/shop"):
        first_mismatch([text], PAYLOAD)
