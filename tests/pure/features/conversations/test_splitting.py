"""Long texts become messages that lose nothing and end at good places."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from daybook.delivery.channels.text import length
from daybook.features.conversations.splitting import split


@given(st.text(alphabet="ab \n`~😀", max_size=600), st.integers(120, 200))
def test_no_part_is_too_long_or_blank_and_no_letter_is_lost(text: str, limit: int) -> None:
    parts = split(text, limit)
    assert all(length(each) <= limit and each.strip() for each in parts)
    letters = re.sub(r"[^ab😀]", "", text)
    assert re.sub(r"[^ab😀]", "", "".join(parts)) == letters


def test_a_text_ends_at_a_paragraph() -> None:
    first, second = "one " * 20, "two " * 20
    assert split(f"{first}\n\n{second}", 130) == [first.strip(), second.strip()]


def test_a_long_line_ends_at_a_word() -> None:
    parts = split("word " * 100, 150)
    assert len(parts) > 1
    assert all(each.split() == ["word"] * len(each.split()) for each in parts)


def test_a_code_block_goes_on_in_the_next_message() -> None:
    code = "\n".join(f"line {number}" for number in range(40))
    parts = split(f"Before\n\n```python\n{code}\n```\n\nAfter", 200)
    assert len(parts) > 1
    for part in parts:
        assert part.count("```") % 2 == 0, part
    assert all(part.startswith("```python\n") for part in parts[1:-1])
    numbers = re.findall(r"line (\d+)", "".join(parts))
    assert numbers == [str(number) for number in range(40)]
