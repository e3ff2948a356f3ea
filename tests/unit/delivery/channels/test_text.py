"""What a channel is given of a text."""

from __future__ import annotations

import html
import re
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daybook.delivery.channels import text
from daybook.delivery.channels.base import Message

NOW = datetime(2026, 11, 20, 9, tzinfo=UTC)
TOLD = re.compile(
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


def test_what_fits_is_whole() -> None:
    assert text.truncate(message("  All is well.\n"), 12) == "All is well."


@given(st.text(), st.integers(200, 300), st.booleans(), st.booleans())
def test_no_cut_is_longer_than_it_may_be_and_each_tells_the_truth(
    body: str, limit: int, run: bool, ui: bool
) -> None:
    body = (body + " ") * 20
    cut = text.truncate(message(body, run=run, ui=ui), limit)
    assert text.length(cut) <= limit
    if text.length(body.strip()) <= limit:
        assert cut == body.strip()
        return
    kept, _, last = cut.rpartition("\n")
    found = TOLD.match(last)
    assert found
    assert bool(found[2]) == run
    assert bool(found[3]) == (run and ui)
    fence = kept.rpartition("\n")[2]
    if not body.strip().startswith(kept):  # a block of code was closed
        assert set(fence) <= {"`", "~"}
        kept = kept.removesuffix(f"\n{fence}")
        assert body.strip().startswith(kept)
    assert int(found[1].replace(",", "")) == len(body.strip()) - len(kept)


def test_a_cut_is_at_a_lines_end_where_one_is_near_else_at_a_words() -> None:
    lines = "\n".join(["a line of twenty-five ch."] * 100)
    assert all(
        each == "a line of twenty-five ch."
        for each in text.truncate(message(lines), 500).splitlines()[:-1]
    )
    words = "seven77 " * 500
    kept = text.truncate(message(words), 500).splitlines()[0]
    assert set(kept.split()) == {"seven77"}
    one = text.truncate(message("x" * 5000), 500).splitlines()[0]
    assert len(one) > 400


def test_a_block_of_code_that_is_cut_is_closed() -> None:
    body = "Look:\n```python\n" + "value = 1\n" * 500 + "```\nDone."
    lines = text.truncate(message(body), 1000).splitlines()
    assert lines[-2] == "```"
    assert TOLD.match(lines[-1])
    closed = "```\ncode\n```\n" + "words and more\n" * 500
    assert text.truncate(message(closed), 1000).splitlines()[-2] == "words and more"


def test_some_count_as_utf_16_does() -> None:
    cut = text.truncate(message("🦉" * 4000), 4096)
    assert len(cut.encode("utf-16-le")) // 2 <= 4096
    assert "🦉" * 2000 in cut
    cut.encode()  # no character is split


def test_so_many_lines_and_no_more() -> None:
    body = "\n".join(map(str, range(100)))
    lines = text.truncate(message(body), 1000, 10).splitlines()
    assert lines[:9] == list(map(str, range(9)))
    assert len(lines) == 10
    assert TOLD.match(lines[9])
    assert text.truncate(message("1\n2"), 1000, 10) == "1\n2"


@pytest.mark.parametrize("limit", [1, 5, 20, 60])
def test_a_very_small_channel_gets_what_it_can_take(limit: int) -> None:
    cut = text.truncate(message("word " * 100), limit)
    assert 0 < len(cut) <= limit
    assert cut.endswith("…") or TOLD.match(cut.splitlines()[-1])


def test_a_subject_is_one_line() -> None:
    assert text.shorten_line("brief:\r\nBcc: all", 100) == "brief: Bcc: all"
    assert text.shorten_line("abcdef", 4) == "abc…"


@pytest.mark.parametrize(
    "bell", ["@everyone", "@here", "@channel", "@all", "<!channel>", "<@U123>", "<@!77>", "<@&7>"]
)
def test_a_bell_does_not_ring_and_is_read_all_the_same(bell: str) -> None:
    quiet = text.mute_mentions(f"Ask {bell} now")
    assert bell not in quiet
    assert quiet.replace("\u200b", "") == f"Ask {bell} now"


@pytest.mark.parametrize("kept", ["<me@b.example>", "a @ b", "@tool", "!important"])
def test_what_is_no_bell_is_left_alone(kept: str) -> None:
    assert text.mute_mentions(kept) == kept


@given(st.text())
def test_html_shows_the_text_as_it_is(words: str) -> None:
    made = text.as_html(words)
    assert not re.search(r"<(?!br/>)|>(?<!<br/>)", made)
    shown = html.unescape(made.replace("<br/>", "\n")).replace("\xa0", " ")
    assert shown == words.replace("\xa0", " ")


def test_a_terminal_is_not_driven() -> None:
    assert text.escape_controls("a\x1b[2J\x07\r\u202eb\n\tc") == "a\\x1b[2J\\x07\\r\\u202eb\n\tc"
