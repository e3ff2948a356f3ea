"""The text of a page for a model: Markdown, with title, date and absolute links.

Hidden elements, scripts and images are left out. The conversion is a pure function of
the response; it takes about a second for the most hostile megabyte, in a thread of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from email.message import Message
from typing import Any

from html_to_markdown import (
    ConversionError,
    ConversionOptions,
    PreprocessingOptions,
    convert,
)

from daybook.errors import DaybookError
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


class UnreadablePage(DaybookError):
    """The error that a page has no text."""

    code = "unreadable_page"


@dataclass(frozen=True)
class PageText:
    """The text of a page; ``title`` and ``date`` are "" if they are unknown.

    ``cut`` is the reason why the text is incomplete; "" if it is complete.
    """

    text: str
    title: str = ""
    date: str = ""
    address: str = ""
    cut: str = ""


def read(response: Response, url: str) -> PageText:
    """Return the text of a response from ``url``. Raise `UnreadablePage` if it is not a text."""
    kind = _media_type(response.headers.get("content-type", ""))
    if kind and not kind.startswith("text/") and not kind.endswith(_TEXT_ENDS):
        size = f"{len(response.body):,} bytes"
        raise UnreadablePage(f"this is no text, but {kind[:100]} ({size}); look for a page of text")
    text = decode_text(response.body, response.headers)
    date = response.headers.get("last-modified", "")[:MAX_DATE_CHARACTERS]
    if kind not in _HTML and (kind or not _looks_like_html(text)):
        return PageText(text.strip(), date=date)
    try:
        found = convert(
            text,
            ConversionOptions(
                base_url=url,
                skip_images=True,
                preprocessing=PreprocessingOptions(remove_navigation=False, remove_forms=False),
            ),
        )
    except ConversionError as error:
        raise UnreadablePage(f"its HTML cannot be read ({type(error).__name__})") from None
    title, of_page = _described(found.metadata)
    body = _without_metadata(found.content or "")
    return PageText(body.strip(), title, of_page or date)


def _media_type(content_type: str) -> str:
    message = Message()
    message["content-type"] = content_type[:MAX_CONTENT_TYPE_CHARACTERS]
    return message.get_content_type() if content_type.strip() else ""


def _looks_like_html(text: str) -> bool:
    start = text[:1_000].lstrip().lower()
    return start.startswith(("<!doctype html", "<html"))


def _described(metadata: Any) -> tuple[str, str]:
    """Return title and date of a page, each as one line; "" if it is unknown."""
    document = getattr(metadata, "document", None)
    title = str(getattr(document, "title", None) or "")
    tags: Mapping[str, str] = getattr(document, "meta_tags", None) or {}
    named = {name.lower(): value for name, value in tags.items()}
    date = next((named[each] for each in _DATES if named.get(each)), "")
    return one_line(title, MAX_TITLE_CHARACTERS), one_line(date, MAX_DATE_CHARACTERS)


def _without_metadata(markdown: str) -> str:
    """Return the text without the YAML block of metadata at its start."""
    if not markdown.startswith("---\n"):
        return markdown
    _, end, rest = markdown.partition("\n---\n")
    return rest if end else markdown
