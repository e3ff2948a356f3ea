"""The headline of an answer."""

from __future__ import annotations

from daybook import markdown
from tests import rows


def test_a_headline_is_the_first_line_of_words() -> None:
    table = (
        ("# Two **mails**", "Two mails"),
        ("\n---\n\n- [a link](https://x.test) and `code`\n- b", "a link and code"),
        ("2 * 3 * 4 is snake_case_here", "2 * 3 * 4 is snake_case_here"),
        ("1. first", "first"),
        ("***", ""),
        ("", ""),
        (None, ""),
        ("y" * 200, "y" * 159 + "…"),
    )
    for (text, headline), trying in rows.each(table):
        with trying:
            assert markdown.headline(text) == headline
