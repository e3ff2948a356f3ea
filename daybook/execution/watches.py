"""Content of a watched page, and the difference between two contents."""

from __future__ import annotations

import difflib
import hashlib
import html
import json
import re
from itertools import islice

import httpx

from daybook.http import bodies, request
from daybook.http.guard import Guard, origin
from daybook.http.httpx_transport import HttpxTransport

MAX_COMPARED_LINES = 2_000
"""Maximum number of lines of each content that `difference` compares, from the first difference."""

_MARKUP = re.compile(r"<(?:(!--)|(?:[!?]|(/?)([a-zA-Z][^\s/<>]*+))[^<>]*+>)")
"""The start of a comment, or a tag; any other `<` belongs to the text."""
_HIDDEN_END = re.compile(r"</(script|style|noscript|template|svg)", re.IGNORECASE)
_HIDDEN_TAGS = {"script", "style", "noscript", "template", "svg"}
_INLINE_TAGS = {
    "a",
    "abbr",
    "b",
    "cite",
    "code",
    "del",
    "em",
    "i",
    "ins",
    "kbd",
    "label",
    "mark",
    "q",
}
_INLINE_TAGS |= {"s", "small", "span", "strong", "sub", "sup", "time", "u"}


async def fetch(url: str, guard: Guard, seconds: float) -> str:
    """Return the content of the page, in the form of `content_of`, within ``seconds``.

    Raise ValueError for a status other than 2xx, for a page without visible text, and for a page
    longer than `daybook.http.request.MAX_BODY_BYTES`. Raise `NoResponse` if there is no response,
    and `InvalidInput` or `OutgoingRefused` for an address that the guard refuses.
    """
    page = await request.request(HttpxTransport(guard), "GET", url, headers={}, timeout=seconds)
    address = origin(guard.check(url))
    if not 200 <= page.status < 300:
        raise ValueError(f"{address} answered {request.status_text(page.status)}")
    if page.cut:
        raise ValueError(f"the page of {address} is {page.cut}; watch a command that filters it")
    return content_of(page.body, page.headers)


def content_of(body: bytes, headers: httpx.Headers) -> str:
    """Return the text that a watch compares.

    For HTML, this is the visible text. For JSON, it is the JSON with one value per line; invalid
    JSON is unchanged. Any other text is unchanged. Other data are represented by their length and
    checksum. Raise ValueError for HTML without visible text.
    """
    content_type = headers.get("content-type", "text/plain").partition(";")[0].strip().lower()
    is_json = content_type.endswith(("/json", "+json"))
    is_text = content_type.startswith("text/") or content_type.endswith(("/xml", "+xml"))
    if not is_text and not is_json:
        return f"{len(body):,} bytes, SHA-256 {hashlib.sha256(body).hexdigest()}"
    text = bodies.decode_text(body, headers)
    if content_type in ("text/html", "application/xhtml+xml"):
        return _visible_text(text)
    if is_json:
        try:
            text = json.dumps(json.loads(text), ensure_ascii=False, indent=1)
        except (ValueError, RecursionError):
            return text
    return text


def _visible_text(page: str) -> str:
    """Return the text that a browser would show, with one line for each block, in linear time.

    Raise ValueError if the page has no visible text.
    """
    parts, unclosed, at = list[str](), set[str](), 0
    while (markup := _MARKUP.search(page, at)) is not None:
        parts.append(_one_line(page[at : markup.start()]))
        is_comment, is_end, name = markup[1], markup[2], (markup[3] or "").lower()
        if is_comment:
            end_of_comment = page.find("-->", markup.start())
            at = end_of_comment + 3 if end_of_comment >= 0 else len(page)
            continue
        at = markup.end()
        if name not in _INLINE_TAGS:
            parts.append("\n")
        if name in _HIDDEN_TAGS - unclosed and not is_end:
            ends = _HIDDEN_END.finditer(page, at)
            end = next((each for each in ends if each[1].lower() == name), None)
            if end is None:
                unclosed.add(name)
            else:
                at = end.start()
    parts.append(_one_line(page[at:]))
    lines = (" ".join(line.split()) for line in html.unescape("".join(parts)).split("\n"))
    text = "\n".join(filter(None, lines))
    if not text:
        raise ValueError("the page has no visible text; watch a command that reads its data")
    return text


def _one_line(text: str) -> str:
    """Replace each run of whitespace in ``text``, even at its ends, by one space."""
    return " ".join(f"|{text}|".split())[1:-1]


def difference(before: str, after: str) -> str:
    """Return the changed lines as a unified diff with three lines of context, without its header.

    Compare at most `MAX_COMPARED_LINES` lines, so that the time is bounded.
    """
    old, new = before.splitlines(), after.splitlines()
    same = 0
    while same < min(len(old), len(new)) and old[same] == new[same]:
        same += 1
    start = max(0, same - 3)
    end = start + MAX_COMPARED_LINES
    diff = difflib.unified_diff(old[start:end], new[start:end], lineterm="")
    lines = [line for line in islice(diff, 2, None) if not line.startswith("@@")]
    if max(len(old), len(new)) > end:
        lines.append(f"… (what follows line {end:,} is not compared)")
    return "\n".join(lines)
