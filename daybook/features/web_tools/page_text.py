"""The text of a page for a model: Markdown, with title, date and absolute links.

Scripts, images and what a reader cannot see are left out. `convert_html` converts HTML in a
process of its own, because a hostile page may exceed any memory and time.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import Message
from importlib.util import find_spec
from pathlib import Path
from typing import TypedDict

from daybook.agents import process
from daybook.errors import DaybookError
from daybook.features.web_tools import convert_html
from daybook.http.bodies import MAX_CONTENT_TYPE_CHARACTERS, decode_text
from daybook.http.request import Response
from daybook.short_text import one_line

MAX_TITLE_CHARACTERS = 300
MAX_DATE_CHARACTERS = 40
MAX_BASE_CHARACTERS = 2_000
CONVERSION_SECONDS = 20.0
"""How long a conversion may take, on a busy machine."""

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
    address: str
    title: str = ""
    date: str = ""
    cut: str = ""


class Converted(TypedDict):
    """The parts of a page, as `convert_html` prints them."""

    text: str
    title: str
    meta: dict[str, str]
    links: list[tuple[str, str]]
    is_cut: bool


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
    found = await convert(text, url)
    title = one_line(found["title"], MAX_TITLE_CHARACTERS)
    too_long = f"longer than {convert_html.MAX_TEXT_CHARACTERS:,} characters"
    cut = response.cut or (too_long if found["is_cut"] else "")
    return PageText(found["text"].strip(), url, title, _date(found["meta"]) or date, cut)


async def convert(html: str, base: str) -> Converted:
    """Return the parts of a page at the address ``base``.

    Raise `UnreadablePage` if the conversion exceeds its limits.
    """
    packages = find_spec("html_to_markdown")
    assert packages is not None
    assert packages.origin is not None
    program = [sys.executable, "-I", "-S", convert_html.__file__]
    done = await process.run(
        [*program, str(Path(packages.origin).parents[1]), base[:MAX_BASE_CHARACTERS]],
        folder="/",
        environment={},
        stdin=html.encode(errors="replace"),
        seconds=CONVERSION_SECONDS,
        grace_seconds=0.0,
    )
    try:
        found: Converted = json.loads(done.output)
    except ValueError:  # the system has ended the program, or its input is binary
        why = "its HTML is no text, or needs too much time or memory; read another page"
        raise UnreadablePage(why) from None
    return found


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
