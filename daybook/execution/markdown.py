"""Conversion of texts of models and programs to Markdown without images, HTML and unsafe links."""

from __future__ import annotations

import re
from collections.abc import Iterator

from markdown_it import MarkdownIt
from markdown_it.token import Token

from daybook.markdown_limits import LINK_SCHEMES, is_parsable

_MARK = "\ue000"
_SCHEMES = "|".join(map(re.escape, LINK_SCHEMES))
_OTHER_LINK = rf"\](?=[(:]\s*+(?!{_SCHEMES}))"
"""End of a link's text, or of the name of a reference, if the address has another scheme."""
_RISKY = re.compile(rf"(?<!!)!+\[|<(?=[A-Za-z/!?])|{_OTHER_LINK}|{_MARK}", re.IGNORECASE)
_LINK = re.compile(_OTHER_LINK, re.IGNORECASE)
_MARKED = re.compile(rf"{_MARK}(\d+);")
_REPLACEMENTS = {"!": "[image: ", "<": "&lt;", "]": "] ", _MARK: _MARK}
_FENCE = re.compile(r"`{3,}")
_CODE = re.compile(r"`|~~~")

# The parser takes quadratic time for links, images and emphasis, which are not needed to find code.
_SLOW_RULES = ["link", "image", "emphasis"]


def sanitize_markdown(markdown: str) -> str:
    """Escape images, raw HTML and unsafe links in Markdown that a model wrote.

    So the UI renders none of them. Links with `LINK_SCHEMES` are safe. Fenced blocks and code spans
    stay as they are, because they would show the escapes. Code is escaped too if ``markdown`` is
    not parsable (`markdown_limits`), or if parsers may disagree about it.
    """
    escaped = _RISKY.sub(lambda found: _REPLACEMENTS[found[0][0]], markdown)
    if escaped == markdown or not _CODE.search(markdown) or not is_parsable(markdown):
        return escaped
    found: list[str] = []

    def mark(risky: re.Match[str]) -> str:
        found.append(risky[0])
        return f"{_MARK}{len(found) - 1};"

    def put_back(marked: re.Match[str]) -> str:
        risky = found[int(marked[1])]
        return risky if marked[0] in code else _REPLACEMENTS[risky[0]]

    # Parse with marks in place of the risky parts, so that the parser meets no HTML.
    marked = _RISKY.sub(mark, markdown)
    code = {each[0] for text in _code(marked) for each in _MARKED.finditer(text)}
    restored = _MARKED.sub(put_back, marked)
    # The restored parts, such as a tag at the start of a line, can change how the rest is parsed.
    return escaped if any(map(_calls_out, _tokens(restored))) else restored


def shift_headings(markdown: str) -> str:
    """Lower the headings in a model's Markdown by two levels, at most to the sixth level.

    This puts them below the artifact's own headings. Headings in lists and quotes do not change,
    nor does a text that is not parsable.
    """
    if not is_parsable(markdown):
        return markdown
    lines = markdown.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    headings = [
        each for each in _tokens("\n".join(lines)) if each.type == "heading_open" and not each.level
    ]
    for heading in headings:
        assert heading.map is not None
        first, end = heading.map
        marks = "#" * min(int(heading.tag[1]) + 2, 6)
        if heading.markup.startswith("#"):
            lines[first] = marks + lines[first].lstrip(" ").removeprefix(heading.markup)
        else:  # a text that is underlined with = or -
            text = " ".join(map(str.strip, lines[first : end - 1]))
            lines[first:end] = [f"{marks} {text}", *[""] * (end - first - 1)]
    return "\n".join(lines) if headings else markdown


def _calls_out(token: Token) -> bool:
    """Return whether ``token`` is raw HTML, or text that may be an image or an unsafe link."""
    is_text = token.type == "text" and ("![" in token.content or _LINK.search(token.content))
    return token.type.startswith("html_") or bool(is_text)


def _tokens(markdown: str) -> Iterator[Token]:
    reader = MarkdownIt("commonmark").enable("table").disable(_SLOW_RULES)
    reader.inline.ruler2.enableOnly([])  # the rules that pair emphasis marks
    for token in reader.parse(markdown):
        yield token
        yield from token.children or ()


def _code(markdown: str) -> Iterator[str]:
    """Yield the texts that the parsers of all Markdown dialects treat as code."""
    links = False
    for token in _tokens(markdown):
        text = token.content
        if token.type == "inline":
            links = "](" in text  # a backtick in a link's address is not code
        # Some parsers end a fence at any line that starts like its end.
        if token.type == "fence" and not any(
            line.lstrip().startswith(token.markup) for line in text.splitlines()
        ):
            yield text
        # A span over several lines cannot be found again, because its line breaks are spaces here.
        if token.type == "code_inline" and not links and text in markdown:
            yield text


def fenced_block(text: str) -> str:
    """Return ``text`` as a fenced block with a fence that is longer than any fence in ``text``."""
    longest = max((len(found) for found in _FENCE.findall(text)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}text\n{text}\n{fence}"
