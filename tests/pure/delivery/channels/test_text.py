"""Formatting of texts for channels: truncation, mentions, HTML and control characters."""

from __future__ import annotations

import html
import re
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daybook.delivery.channels import text
from daybook.delivery.channels.base import Message

NOW = datetime(2026, 11, 20, 9, tzinfo=UTC)
CUT = re.compile(
    r"\[… ([\d,]+) more characters(: `daybook show 4f0c2a91d3e7`)?(, or http://ui)?\]\Z"
)


def message(body: str, *, run: bool = True, ui: bool = False) -> Message:
    return Message(
        id="msg_1",
        event="completed",
        subject="brief",
        body=body,
        chat_id="",
        at=NOW,
        run_id="4f0c2a91d3e7aa00" if run else None,
        run_url="http://ui" if ui else None,
    )


def test_a_note_is_whole_or_left_out() -> None:
    given_message = replace(message("line\n" * 100), note="a note\nof two lines")
    cut = text.truncate(given_message, 200)
    assert cut.endswith("characters: `daybook show 4f0c2a91d3e7`]\n\na note\nof two lines")
    assert text.length(cut) <= 200
    assert text.truncate(given_message, 200, lines=9).count("\n") < 9
    assert "note" not in text.truncate(given_message, 40)
    assert "note" not in text.truncate(given_message, 200, lines=4)
    assert text.truncate(replace(given_message, body=" "), 200) == "a note\nof two lines"


def test_a_body_that_fits_is_only_stripped() -> None:
    assert text.truncate(message("  All is well.\n"), 12) == "All is well."


@given(st.text(), st.integers(200, 300), st.booleans(), st.booleans())
def test_a_truncated_text_fits_its_limit_and_states_what_was_cut(
    body: str, limit: int, run: bool, ui: bool
) -> None:
    body = (body + " ") * 20
    cut = text.truncate(message(body, run=run, ui=ui), limit)
    assert text.length(cut) <= limit
    if text.length(body.strip()) <= limit:
        assert cut == body.strip()
        return
    head, _, last = cut.rpartition("\n")
    found = CUT.match(last)
    assert found
    assert bool(found[2]) == run
    assert bool(found[3]) == (run and ui)
    fence = head.rpartition("\n")[2]
    if not body.strip().startswith(head):  # a block of code was closed
        assert set(fence) <= {"`", "~"}
        head = head.removesuffix(f"\n{fence}")
        assert body.strip().startswith(head)
    assert int(found[1].replace(",", "")) == len(body.strip()) - len(head)


def test_a_text_is_cut_at_a_line_end_else_between_words_else_within_a_word() -> None:
    lines = "\n".join(["a line of twenty-five ch."] * 100)
    assert all(
        each == "a line of twenty-five ch."
        for each in text.truncate(message(lines), 500).splitlines()[:-1]
    )
    words = "seven77 " * 500
    head = text.truncate(message(words), 500).splitlines()[0]
    assert set(head.split()) == {"seven77"}
    one = text.truncate(message("x" * 5000), 500).splitlines()[0]
    assert len(one) > 400


def test_a_code_block_that_is_cut_is_closed() -> None:
    body = "Look:\n```python\n" + "value = 1\n" * 500 + "```\nDone."
    lines = text.truncate(message(body), 1000).splitlines()
    assert lines[-2] == "```"
    assert CUT.match(lines[-1])
    closed = "```\ncode\n```\n" + "words and more\n" * 500
    assert text.truncate(message(closed), 1000).splitlines()[-2] == "words and more"


def test_the_limit_counts_utf_16_units_and_splits_no_character() -> None:
    cut = text.truncate(message("🦉" * 4000), 4096)
    assert len(cut.encode("utf-16-le")) // 2 <= 4096
    assert "🦉" * 2000 in cut
    cut.encode()  # no character is split


def test_a_text_is_truncated_to_the_maximum_number_of_lines() -> None:
    body = "\n".join(map(str, range(100)))
    lines = text.truncate(message(body), 1000, 10).splitlines()
    assert lines[:9] == list(map(str, range(9)))
    assert len(lines) == 10
    assert CUT.match(lines[9])
    assert text.truncate(message("1\n2"), 1000, 10) == "1\n2"


@pytest.mark.parametrize("limit", [1, 5, 20, 60])
def test_a_very_small_limit_still_gives_a_text_within_it(limit: int) -> None:
    cut = text.truncate(message("word " * 100), limit)
    assert 0 < len(cut) <= limit
    assert cut.endswith("…") or CUT.match(cut.splitlines()[-1])


def test_a_subject_is_joined_to_one_line_and_shortened() -> None:
    assert text.shorten_line("brief:\r\nBcc: all", 100) == "brief: Bcc: all"
    assert text.shorten_line("abcdef", 4) == "abc…"


@pytest.mark.parametrize(
    "bell", ["@everyone", "@here", "@channel", "@all", "<!channel>", "<@U123>", "<@!77>", "<@&7>"]
)
def test_a_mention_is_muted_and_stays_readable(bell: str) -> None:
    quiet = text.mute_mentions(f"Ask {bell} now")
    assert bell not in quiet
    assert quiet.replace("\u200b", "") == f"Ask {bell} now"


@pytest.mark.parametrize("plain", ["<me@b.example>", "a @ b", "@tool", "!important"])
def test_a_text_that_is_no_mention_is_unchanged(plain: str) -> None:
    assert text.mute_mentions(plain) == plain


@given(st.text())
def test_html_shows_the_text_unchanged(words: str) -> None:
    made = text.as_html(words)
    assert not re.search(r"<(?!br/>)|>(?<!<br/>)", made)
    shown = html.unescape(made.replace("<br/>", "\n")).replace("\xa0", " ")
    assert shown == words.replace("\xa0", " ")


def test_control_characters_are_escaped() -> None:
    assert text.escape_controls("a\x1b[2J\x07\r\u202eb\n\tc") == "a\\x1b[2J\\x07\\r\\u202eb\n\tc"
