"""Markdown of models as HTML that runs and loads nothing."""

from __future__ import annotations

import pytest

from daybook.web import markdown


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
    ],
)
def test_no_text_becomes_an_element_that_runs_or_loads(text: str) -> None:
    found = markdown.render(text)
    for bad in ("<script", "<img", "<b ", 'href="javascript', 'href="data'):
        assert bad not in found


def test_links_do_not_tell_where_they_come_from() -> None:
    assert 'rel="noopener noreferrer nofollow"' in markdown.render("[x](https://example.org)")


def test_a_long_text_is_shown_as_it_is() -> None:
    text = "<b>" + "[" * markdown.MAX_RENDERED_CHARACTERS
    found = markdown.render(text)
    assert found.startswith("<pre")
    assert "&lt;b&gt;[[" in found
