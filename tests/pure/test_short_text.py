"""Shorter forms of texts and of lists of names."""

from __future__ import annotations

import pytest
import regex  # type: ignore[import-untyped]
from hypothesis import example, given
from hypothesis import strategies as st

from daybook.short_text import clip, first_names, one_line, prefix, shorten

PIECES = st.sampled_from(
    [
        "a",
        " ",
        "é",
        "u\u0308",
        "👨‍👩‍👧‍👦",  # four people and three joiners: 7 code points
        "🇩🇪",
        "👍🏽",
        "한",
        "\u1112\u1161\u11ab",
        "ก็",
        "1\ufe0f\u20e3",
    ]
)


@pytest.mark.floor("E", "A default name splits no character")
@given(st.lists(PIECES, min_size=1, max_size=40).map("".join), st.integers(8, 60))
@example("🇩🇪" * 30, 9)
def test_a_prefix_splits_no_character(text: str, length: int) -> None:
    """The expected text uses the grapheme clusters of the `regex` package (Unicode's UAX 29)."""
    clusters = regex.findall(r"\X", text)
    expected = ""
    for cluster in clusters:
        if len(expected) + len(cluster) > length:
            break
        expected += cluster
    assert prefix(text, length) == (expected if expected == text else expected.rstrip())


@given(st.lists(PIECES, max_size=40).map("".join), st.integers(2, 60), st.sampled_from(["…", " …"]))
def test_a_clipped_text_has_its_mark_within_the_limit(text: str, longest: int, mark: str) -> None:
    clipped = clip(text, longest, mark)
    assert len(clipped) <= longest
    if len(text) <= longest:
        assert clipped == text
    else:
        assert clipped == prefix(text, longest - len(mark)) + mark


@pytest.mark.parametrize("longest", [0, 1])
def test_a_limit_without_room_for_the_mark_leaves_only_the_mark(longest: int) -> None:
    assert clip("morning", longest) == "…"


def test_a_line_break_cannot_forge_a_second_line() -> None:
    assert one_line(ValueError(" refused\r\n2026-11-20 granted\t")) == "refused 2026-11-20 granted"
    assert one_line("a\nb c", 4) == "a b…"
    assert len(one_line("x" * 3_000)) == 2_000


def test_a_shortened_text_states_the_number_of_the_omitted_characters() -> None:
    assert shorten("x" * 5, 5) == "x" * 5
    assert shorten("x" * 6, 5) == "xxxxx\n… (1 more characters)"
    assert shorten("x" * 1_505, 5, inline=True) == "xxxxx… (1,500 more characters)"
    assert shorten("x" * 6, 5, where=", in the artifact") == (
        "xxxxx\n… (1 more characters, in the artifact)"
    )


def test_a_list_of_more_than_five_names_is_shortened() -> None:
    assert first_names(list("abcde")) == "a, b, c, d, e"
    assert first_names(list("abcdefg")) == "a, b, c, d, e and 2 more"
    assert first_names(["a", "b", "c"], 1) == "a and 2 more"
    assert first_names([]) == ""
