"""The parts of a mail for a model: its headers, its text, and the names of its attachments."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from email import message_from_bytes
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from email.message import Message

from daybook.execution import html_text
from daybook.short_text import clip, one_line

HEADERS = ("From", "To", "Cc", "Date", "Subject")
MAX_HEADER_CHARACTERS = 500
MAX_RAW_HEADER_CHARACTERS = 5_000
MAX_PARTS = 200
MAX_LISTED_ATTACHMENTS = 50


@dataclass(frozen=True)
class MailText:
    """A mail. ``headers`` maps those of `HEADERS` that it has to their decoded values."""

    headers: dict[str, str]
    text: str
    attachments: list[str] = field(default_factory=list)


def headers(content: bytes) -> dict[str, str]:
    """Return the decoded `HEADERS` of a mail."""
    return _headers(message_from_bytes(content))


async def read(content: bytes) -> MailText:
    """Return a mail. Raise `html_text.UnreadablePage` if its HTML cannot be converted.

    Its text is that of its plain parts or, without one, that of its first part of HTML.
    """
    message = message_from_bytes(content)
    plain, html, attachments = list[str](), "", list[str]()
    for part in _parts(message):
        name, kind = _decoded(str(part.get_filename() or "")), part.get_content_type()
        is_attached = bool(name) or part.get_content_disposition() == "attachment"
        if is_attached or kind not in ("text/plain", "text/html"):
            size = f", {len(content):,} bytes" if (content := _content(part)) else ""
            attachments.append(f"{name or 'no name'} ({kind[:100]}{size})")
        elif kind == "text/plain":
            plain.append(_text(part).strip())
        elif not html:
            html = _text(part)
    text = "\n\n".join(filter(None, plain))
    if not text and html:
        text = (await html_text.convert(html, ""))["text"].strip()
    return MailText(_headers(message), text, attachments[:MAX_LISTED_ATTACHMENTS])


def _parts(message: Message) -> Iterator[Message]:
    """Yield the parts that contain no others, at most `MAX_PARTS`. A mail in a mail is one part."""
    left, count = [message], 0
    while left and count < MAX_PARTS:
        part, count = left.pop(), count + 1
        inner = part.get_payload()
        if part.get_content_maintype() == "multipart" and isinstance(inner, list):
            left += [each for each in reversed(inner) if isinstance(each, Message)]
        else:
            yield part


def _content(part: Message) -> bytes:
    found = part.get_payload(decode=True)
    return found if isinstance(found, bytes) else b""  # a mail in a mail


def _text(part: Message) -> str:
    content = _content(part)
    try:
        return content.decode(part.get_content_charset() or "utf-8", "replace")
    except LookupError:  # an unknown encoding
        return content.decode(errors="replace")


def _headers(message: Message) -> dict[str, str]:
    found = {name: _decoded(str(message.get(name, ""))) for name in HEADERS}
    return {name: value for name, value in found.items() if value}


def _decoded(value: str) -> str:
    raw = clip(value, MAX_RAW_HEADER_CHARACTERS)
    try:
        text = str(make_header(decode_header(raw)))
    except (HeaderParseError, LookupError, ValueError):
        text = raw
    return one_line(text, MAX_HEADER_CHARACTERS)
