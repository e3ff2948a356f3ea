"""Program that parses a mail, with limits on its memory and CPU time.

Anyone can send a mail of which `email` needs hours, for example one with many semicolons in a
parameter. So `mail_text` runs this file as a program of its own, without Daybook's packages. It
reads the mail from standard input, and prints a JSON object with `headers`, `text`, `html` (of a
mail without text), `attachments`, `fields` (names and raw values of all headers, in their order),
`kind` (the content type), `has_mail` (whether it contains another mail) and `has_pictures`. With
the argument `PICTURES`, it prints an array with the name and the base64 of each attached picture.
"""

from __future__ import annotations

import json
import resource
import sys
from base64 import b64encode
from collections.abc import Iterator, Sequence
from email import message_from_bytes
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from email.message import Message
from email.parser import BytesHeaderParser
from itertools import islice
from typing import Any

HEADERS = ("From", "To", "Cc", "Date", "Subject")
MAX_MEMORY_BYTES = 1_500_000_000
MAX_CPU_SECONDS = 10
MAX_HEADER_CHARACTERS = 500
MAX_RAW_HEADER_CHARACTERS = 2_000
MAX_FIELDS = 200
MAX_FIELD_CHARACTERS = 4_000
MAX_PARTS = 200
MAX_LISTED_ATTACHMENTS = 50

PICTURES = "pictures"
PICTURE_TYPES = ("image/png", "image/jpeg", "image/gif", "image/webp")
MAX_LISTED_PICTURES = 10


def main() -> None:
    """Parse standard input. The system ends the program if it exceeds a limit."""
    for limit, most in (
        (resource.RLIMIT_AS, MAX_MEMORY_BYTES),
        (resource.RLIMIT_CPU, MAX_CPU_SECONDS),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(limit, (most, most))
    parse = attached_pictures if PICTURES in sys.argv else parsed
    found = json.dumps(parse(sys.stdin.buffer.read()), ensure_ascii=False)
    sys.stdout.buffer.write(found.encode(errors="replace"))


def headers(content: bytes, names: Sequence[str]) -> dict[str, str]:
    """Return the decoded headers of a mail, or of its beginning, without parsing its parts."""
    return _headers(BytesHeaderParser().parsebytes(content), names)


def parsed(content: bytes) -> dict[str, Any]:
    """Return the parts of a mail. Its text is that of its plain parts."""
    message = message_from_bytes(content)
    plain, html, attachments, has_mail = list[str](), "", list[str](), False
    for part in _parts(message):
        has_mail |= part.get_content_maintype() == "message"
        name, kind = _filename(part), part.get_content_type()
        is_attached = bool(name) or part.get_content_disposition() == "attachment"
        if is_attached or kind not in ("text/plain", "text/html"):
            size = f", {len(inner):,} bytes" if (inner := _content(part)) else ""
            attachments.append(f"{name or 'no name'} ({kind[:100]}{size})")
        elif kind == "text/plain":
            plain.append(_text(part).strip())
        elif not html:
            html = _text(part)
    text = "\n\n".join(filter(None, plain))
    return {
        "headers": _headers(message, HEADERS),
        "text": text,
        "html": "" if text else html,
        "attachments": attachments[:MAX_LISTED_ATTACHMENTS],
        "fields": [
            [name[:100], " ".join(str(value)[:MAX_FIELD_CHARACTERS].split())]
            for name, value in message.raw_items()
        ][:MAX_FIELDS],
        "kind": message.get_content_type(),
        "has_mail": has_mail,
        "has_pictures": any(map(_is_picture, _parts(message))),
    }


def attached_pictures(content: bytes) -> list[list[str]]:
    """Return the name and the base64 of the first pictures that a person has attached to a mail."""
    found = filter(_is_picture, _parts(message_from_bytes(content)))
    listed = list(islice(found, MAX_LISTED_PICTURES))
    return [[_filename(each), b64encode(_content(each)).decode()] for each in listed]


def _is_picture(part: Message) -> bool:
    """Return whether a part is an attached picture, and none that the text shows, as a logo."""
    is_shown = "Content-ID" in part and part.get_content_disposition() != "attachment"
    return part.get_content_type() in PICTURE_TYPES and not is_shown


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


def _filename(part: Message) -> str:
    try:
        return decoded(str(part.get_filename() or ""))
    except ValueError:  # of a codec that is none of texts
        return "unreadable name"


def _text(part: Message) -> str:
    content = _content(part)
    try:
        return content.decode(part.get_content_charset() or "utf-8", "replace")
    except (LookupError, ValueError):  # an unknown codec, or one such as `idna`
        return content.decode(errors="replace")


def _headers(message: Message, names: Sequence[str]) -> dict[str, str]:
    found = {name: decoded(str(message.get(name, ""))) for name in names}
    return {name: value for name, value in found.items() if value}


def decoded(value: str) -> str:
    """Return the text of a header's raw value, in one line."""
    raw = value[:MAX_RAW_HEADER_CHARACTERS]
    try:
        text = str(make_header(decode_header(raw)))
    except (HeaderParseError, LookupError, ValueError):
        text = raw
    return " ".join(text.split())[:MAX_HEADER_CHARACTERS]


if __name__ == "__main__":
    main()
