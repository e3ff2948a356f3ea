"""Requirement 10: names given, names from prompts, names that are free."""

from __future__ import annotations

import pytest
import regex  # type: ignore[import-untyped]
from hypothesis import example, given
from hypothesis import strategies as st

from daybook.errors import InvalidInput
from daybook.names import MAX_NAME_LENGTH, default_name, free_name, truncate, validate_name

FAMILY = "👨‍👩‍👧‍👦"  # four people and three joiners: 7 code points


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("Summarise open pull requests", "Summarise open pull requests"),
        ("  Summarise\n\n open\tpull  requests ", "Summarise open pull requests"),
        ("x" * 60, "x" * 50),
        ("ü" * 60, "ü" * 50),
        ("u\u0308" * 60, "u\u0308" * 25),
        ("x" * 49 + "u\u0308", "x" * 49),
        ("x" * 45 + FAMILY, "x" * 45),
        ("x" * 43 + FAMILY + "y", "x" * 43 + FAMILY),
        ("x" * 49 + "🇩🇪", "x" * 49),
        ("🇩🇪" * 30, "🇩🇪" * 25),
        ("x" * 49 + "👍🏽", "x" * 49),
        ("x" * 49 + " yes", "x" * 49),
        ("日" * 60, "日" * 50),
        ("\x00\x07", "job"),
        ("\u200b\u3164 \u0308", "job"),
        ("a\u202eb", "ab"),
        ("a\x00b", "ab"),
        ("a" + "\u0308" * 80, "a" + "\u0308" * 49),  # one character, longer than a name may be
    ],
)
def test_default_name(prompt: str, name: str) -> None:
    assert default_name(prompt) == name


PIECES = st.sampled_from(
    [
        "a",
        " ",
        "é",
        "u\u0308",
        FAMILY,
        "🇩🇪",
        "👍🏽",
        "한",
        "\u1112\u1161\u11ab",
        "ก็",
        "1\ufe0f\u20e3",
    ]
)


@given(st.lists(PIECES, min_size=1, max_size=40).map("".join), st.integers(8, 60))
@example("🇩🇪" * 30, 9)
def test_no_character_is_split(text: str, length: int) -> None:
    """Against the grapheme clusters of the `regex` package (Unicode's UAX 29)."""
    clusters = regex.findall(r"\X", text)
    expected = ""
    for cluster in clusters:
        if len(expected) + len(cluster) > length:
            break
        expected += cluster
    assert truncate(text, length) == (expected if expected == text else expected.rstrip())


def test_free_name() -> None:
    assert free_name("brief", []) == "brief"
    assert free_name("brief", {"brief"}) == "brief-2"
    assert free_name("brief", {"brief", "brief-2", "brief-3"}) == "brief-4"
    long = "x" * MAX_NAME_LENGTH
    assert free_name(long, {long}) == "x" * (MAX_NAME_LENGTH - 2) + "-2"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("", "name: is blank (use 1 to 100 characters)"),
        (" \n", "name: is blank (use 1 to 100 characters)"),
        ("x" * 101, "name: has 101 characters (use 1 to 100)"),
        ("a\nb", "name: has a line break or control character (write it on one line)"),
        ("a\x1b[0m", "name: has a line break or control character (write it on one line)"),
        ("brief\u202e", "name: has a character that changes the direction of text (remove it)"),
        ("\u200f", "name: has a character that changes the direction of text (remove it)"),
        ("\u200b", "name: has no visible character (write at least one letter or digit)"),
        ("\u3164 \u0308", "name: has no visible character (write at least one letter or digit)"),
    ],
)
def test_a_name_that_is_refused(name: str, text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        validate_name(name)
    assert str(caught.value) == text


def test_a_name_loses_the_blanks_around_it_only() -> None:
    assert validate_name("  Morning  brief ☀️ ") == "Morning  brief ☀️"
