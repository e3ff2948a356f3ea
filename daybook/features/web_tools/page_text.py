"""The text of a page for a model: Markdown, with title, date and absolute links.

Scripts, images and what a reader cannot see are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from email.message import Message

from daybook.execution import convert_html, html_text
from daybook.execution.html_text import UnreadablePage
from daybook.http.bodies import MAX_CONTENT_TYPE_CHARACTERS, decode_text
from daybook.http.request import Response
from daybook.short_text import one_line

MAX_TITLE_CHARACTERS = 300
MAX_DATE_CHARACTERS = 40

_HTML = ("text/html", "application/xhtml+xml")
_TEXT_ENDS = ("json", "xml", "yaml", "toml", "javascript", "ndjson")
"""Ends of the media types of texts besides `text/…`."""

_DATES = (
    "article-modified_time",
    "article-published_time",
    "date",
    "dc.date",
    "dcterms.modified",
    "last-modified",
)
"""Names of the elements `meta` that have a date, preferred first, with `-` in place of `:`."""


@dataclass(frozen=True)
class PageText:
    """The text of a page; ``title`` and ``date`` are "" if they are unknown.

    ``cut`` is the reason why the text is incomplete; "" if it is complete.
    """

    text: str
    address: str
    title: str = ""
    date: str = ""
    cut: str = ""


async def read(response: Response, url: str) -> PageText:
    """Return the text of a response from ``url``. Raise `UnreadablePage` if it is not a text."""
    kind = _media_type(response.headers.get("content-type", ""))
    if kind and not kind.startswith("text/") and not kind.endswith(_TEXT_ENDS):
        size = f"{len(response.body):,} bytes"
        raise UnreadablePage(f"this is no text, but {kind[:100]} ({size}); look for a page of text")
    text = decode_text(response.body, response.headers)
    date = one_line(response.headers.get("last-modified", ""), MAX_DATE_CHARACTERS)
    if kind not in _HTML and (kind or not _looks_like_html(text)):
        return PageText(text.strip(), url, date=date, cut=response.cut)
    found = await html_text.convert(text, url)
    title = one_line(found["title"], MAX_TITLE_CHARACTERS)
    too_long = f"longer than {convert_html.MAX_TEXT_CHARACTERS:,} characters"
    cut = response.cut or (too_long if found["is_cut"] else "")
    return PageText(found["text"].strip(), url, title, _date(found["meta"]) or date, cut)


def _media_type(content_type: str) -> str:
    message = Message()
    message["content-type"] = content_type[:MAX_CONTENT_TYPE_CHARACTERS]
    return message.get_content_type() if content_type.strip() else ""


def _looks_like_html(text: str) -> bool:
    start = text[:1_000].lstrip().lower()
    return start.startswith(("<!doctype html", "<html"))


def _date(meta: Mapping[str, str]) -> str:
    named = {name.lower(): value for name, value in meta.items()}
    found = next((named[each] for each in _DATES if named.get(each)), "")
    return one_line(found, MAX_DATE_CHARACTERS)
