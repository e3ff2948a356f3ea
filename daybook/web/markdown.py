"""Rendering of a model's Markdown as HTML that runs no program and loads nothing.

The renderer shows HTML in the text as text, and images as links. It shows links with a scheme that
could run a program (`javascript:`, `vbscript:`, `file:`, `data:`) as text, except `data:` links to
images.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markdown_it.utils import OptionsDict
from markupsafe import Markup

MAX_RENDERED_CHARACTERS = 40_000
"""Maximum length of a rendered text. For some texts, the parser takes quadratic time."""


def render(text: str | None) -> Markup:
    """Return the HTML of a Markdown text. If the text is too long, show it without rendering.

    For None, return an empty text.
    """
    text = text or ""
    if len(text) > MAX_RENDERED_CHARACTERS:
        return Markup('<pre tabindex="0" class="text">{}</pre>').format(text)
    return Markup(_renderer().render(text))


@cache
def _renderer() -> MarkdownIt:
    # Without the rule `image`, the renderer shows `![x](y)` as an exclamation mark and a link.
    found = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")
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
