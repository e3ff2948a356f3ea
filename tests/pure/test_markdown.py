"""Markdown of models as HTML that runs and loads nothing."""

from __future__ import annotations

import re

import pytest

from daybook import markdown
from daybook.markdown_limits import MAX_PARSED_CHARACTERS, MAX_TABLE_CELLS

HREF = re.compile('href="([^"]*)"')


def test_markdown_is_rendered_below_the_headings_of_the_page() -> None:
    text = markdown.render("# One\n\n- a\n- **b**\n\n| x |\n|---|\n| `y` |\n")
    assert "<h3>One</h3>" in text
    assert "<strong>b</strong>" in text
    assert "<td><code>y</code></td>" in text


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "a <b onclick=x>b</b>",
        "![x](https://192.0.2.1/x.png)",
        "[x](javascript:alert(1))",
        "[x](data:text/html,<script>)",
        "<javascript:alert(1)>",
        "```\n<script>\n```",
        "[a]: javascript:alert(1)\n\n[a]",
        "[x](&#106;avascript:alert(1))",
        "[x](<JavaScript:alert(1)>)",
        "[x](data:image/svg+xml;base64,PHN2Zz4=)",
        "[x](blob:http://127.0.0.1/1)",
        "[x](intent://x#Intent;end)",
        "[x](ftp://example.org)",
        "[x](//evil.example)",
        "[x](/jobs/1/remove)",
        "[x](http:evil.example)",
        "[x](%6aavascript:alert(1))",
    ],
)
def test_no_text_becomes_an_element_that_runs_or_loads(text: str) -> None:
    found = markdown.render(text)
    for bad in ("<script", "<img", "<b "):
        assert bad not in found
    assert all(each.startswith(("http://", "https://")) for each in HREF.findall(found))
    assert ("https://192.0.2.1" in text) == bool(HREF.findall(found))


def test_links_to_pages_and_addresses_of_mail_are_kept() -> None:
    for link in ("http://example.org/a?b=c", "HTTPS://example.org", "mailto:a@example.org"):
        assert HREF.findall(markdown.render(f"[x]({link}) <{link}>")) == [link, link]


def test_links_do_not_tell_where_they_come_from() -> None:
    assert 'rel="noopener noreferrer nofollow"' in markdown.render("[x](https://example.org)")


def test_a_long_text_is_shown_as_it_is() -> None:
    text = "<b>" + "[" * MAX_PARSED_CHARACTERS
    found = markdown.render(text)
    assert found.startswith("<pre")
    assert "&lt;b&gt;[[" in found


def test_tables_with_too_many_cells_are_shown_as_they_are() -> None:
    """The parser adds missing cells: a table of 1,700 characters became 700,000 of HTML."""
    wide = "|".join("a" * 100) + "\n" + "|".join("-" * 100) + "\n"
    assert "<table>" in markdown.render(wide + "a\n" * (MAX_TABLE_CELLS // 100 - 2))
    assert markdown.render(wide + "a\n" * (MAX_TABLE_CELLS // 100 - 1)).startswith("<pre")
