"""The nearest name in the errors about unknown names."""

from __future__ import annotations

import pytest

from daybook.errors import MAX_MISSPELLED_LENGTH, NotFound, UnknownName, nearest_name


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("morning-brif", "morning-brief"),
        ("Morning-Brief", "morning-brief"),
        ("weekly report", "Weekly Report"),
        ("morning-brief", None),  # it exists, so something else is wrong
        ("evening", None),
        ("", None),
        ("morning-brief" * MAX_MISSPELLED_LENGTH, None),
    ],
)
def test_the_nearest_name_is_one_that_is_similar(name: str, expected: str | None) -> None:
    assert nearest_name(name, ["morning-brief", "Weekly Report"]) == expected


def test_errors_about_unknown_names_ask_for_the_nearest() -> None:
    assert str(NotFound("agent", "cluade", known=["claude", "default"])) == (
        'agent "cluade" not found (did you mean "claude"?)'
    )
    assert str(NotFound("agent", "x", known=["claude"])) == 'agent "x" not found'
    assert str(UnknownName("agent", "cluade", ["default", "claude"], "see `x`")) == (
        'agent: unknown "cluade" (did you mean "claude"? known: claude, default; see `x`)'
    )
    assert str(UnknownName("agent", "x", ["claude"])) == 'agent: unknown "x" (known: claude)'
