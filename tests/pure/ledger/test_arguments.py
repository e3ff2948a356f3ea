"""Texts of a call's arguments in a question to a person: no argument hides another one."""

from __future__ import annotations

import pytest

from daybook.ledger import arguments


@pytest.mark.parametrize("size", [10, 10_000, 60_000])
def test_a_long_argument_hides_no_other_one(size: int) -> None:
    given = {"text": "x" * size, "cc": ["eve@example.org"], "to": "ann"}
    shown = arguments.short(given).splitlines()
    assert [each.partition("=")[0] for each in shown] == ["text", "cc", "to"]
    assert shown[1:] == ['cc=["eve@example.org"]', 'to="ann"']
    assert ("more characters)" in shown[0]) == (size > 10)
    assert sum(map(len, shown)) < arguments.MAX_SHORT_CHARACTERS + 100
    assert arguments.full(given).splitlines()[0] == f'text="{"x" * size}"'


def test_all_names_are_listed() -> None:
    given = {f"name{number}": "x" * 100 for number in range(500)}
    assert [each.partition("=")[0] for each in arguments.short(given).splitlines()] == [*given]
    assert arguments.names(given) == ", ".join(given)


@pytest.mark.parametrize("hidden", ["\n", "\r", "\u2028", "\u202e", "\u200b", "\x1b", "\x00"])
def test_no_character_forges_an_argument_or_hides_one(hidden: str) -> None:
    """A line break would begin a line that looks like another argument."""
    given = {f"a{hidden}b": f'ann"{hidden}to="eve'}
    for text in (arguments.short(given), arguments.full(given), arguments.names(given)):
        assert text.isprintable() and len(text.splitlines()) == 1


def test_the_stored_arguments_are_the_given_ones() -> None:
    given = {"b": {"x": [1, None, 2.5]}, "a": "ä\u202e", "": True}
    assert arguments.read(arguments.write(given)) == given
    assert arguments.read("") is arguments.read("Sell all.") is arguments.read("[1]") is None
