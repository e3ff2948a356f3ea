"""Rendering of a model's Markdown as HTML that runs no program and loads nothing, and its headline.

The renderer shows HTML in the text as text, images as links, and links other than
`markdown_limits.LINK_SCHEMES` as text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markdown_it.utils import OptionsDict
from markupsafe import Markup

from daybook import markdown_limits
from daybook.short_text import clip

MAX_HEADLINE = 160
_BEGINNING = re.compile(r"^\s*(?:#{1,6}\s+|>\s*|[-*+]\s+|\d{1,3}[.)]\s+)+")
_LINK = re.compile(r"!?\[([^\]]{0,1000})\]\([^)]{0,2000}\)")
_MARKS = re.compile(r"\*\*|__|~~|`+|(?<![\w*])\*(?=\S)|(?<=\S)\*(?![\w*])")
_RULE = re.compile(r"[\s\-=*_#>|:`~]*")


def headline(text: str | None) -> str:
    """Return the first line of words in a Markdown text, without its marks, clipped."""
    for each in (text or "").splitlines():
        line = each[: 4 * MAX_HEADLINE]
        if not _RULE.fullmatch(line):
            bare = _LINK.sub(r"\1", _BEGINNING.sub("", line))
            return clip(" ".join(_MARKS.sub("", bare).split()), MAX_HEADLINE)
    return ""


def render(text: str | None) -> Markup:
    """Return the HTML of a Markdown text, if any; show an unparsable text without rendering."""
    text = text or ""
    if not markdown_limits.is_parsable(text):
        return Markup('<pre tabindex="0" class="text">{}</pre>').format(text)
    return Markup(_renderer().render(text))


@cache
def _renderer() -> MarkdownIt:
    # Without the rule `image`, the renderer shows `![x](y)` as an exclamation mark and a link.
    found = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")
    found.validateLink = markdown_limits.is_allowed_link  # type: ignore[method-assign]
    found.add_render_rule("heading_open", _heading)
    found.add_render_rule("heading_close", _heading)
    found.add_render_rule("link_open", _link)
    return found


def _heading(
    self: RendererHTML, tokens: Sequence[Token], index: int, options: OptionsDict, env: Any
) -> str:
    """Render a heading two levels lower (at most `h6`), below the headings of the page."""
    token = tokens[index]
    token.tag = f"h{min(int(token.tag[1]) + 2, 6)}"
    return self.renderToken(tokens, index, options, env)


def _link(
    self: RendererHTML, tokens: Sequence[Token], index: int, options: OptionsDict, env: Any
) -> str:
    tokens[index].attrSet("rel", "noopener noreferrer nofollow")
    return self.renderToken(tokens, index, options, env)
