"""The parts of a mail for a model: its headers, its text, and the names of its attachments."""

from __future__ import annotations

import json
import sys
from base64 import b64decode
from dataclasses import dataclass, field
from typing import Any

from daybook.agents import process
from daybook.errors import DaybookError
from daybook.execution import html_text, parse_mail
from daybook.processes.pipes import HeadPipe

MAX_PARSED_BYTES = 32 * 2**20
"""Maximum length of what `parse_mail` prints; JSON needs six bytes for some characters."""
PARSE_SECONDS = 20.0
"""How long parsing may take, on a busy machine."""


class UnreadableMail(DaybookError):
    """The error that a mail cannot be parsed."""

    code = "unreadable_mail"


@dataclass(frozen=True)
class MailText:
    """A mail. ``headers`` maps those of `parse_mail.HEADERS` that it has to their values.

    ``fields`` are the names and raw values of all its headers, the last added one first. ``kind``
    is its content type. ``has_mail`` and ``has_pictures`` say whether it contains another mail, and
    attached pictures.
    """

    headers: dict[str, str]
    text: str
    attachments: list[str]
    fields: list[tuple[str, str]] = field(default_factory=list)
    kind: str = ""
    has_mail: bool = False
    has_pictures: bool = False

    def all(self, name: str) -> list[str]:
        """Return the raw values of all headers with this name, in any case."""
        return [value for given, value in self.fields if given.lower() == name.lower()]

    def first(self, name: str) -> str:
        return next(iter(self.all(name)), "")


async def read(content: bytes) -> MailText:
    """Return a mail. Raise `UnreadableMail`, and `UnreadablePage` for its HTML.

    Its text is that of its plain parts or, without one, that of its first part of HTML.
    """
    found = await _parse(content)
    text = found["text"]
    if found["html"]:
        text = (await html_text.convert(found["html"], ""))["text"].strip()
    return MailText(
        found["headers"],
        text,
        found["attachments"],
        [(name, value) for name, value in found["fields"]],
        found["kind"],
        found["has_mail"],
        found["has_pictures"],
    )


async def read_pictures(content: bytes) -> list[tuple[str, bytes]]:
    """Return the name and the content of each picture attached to a mail, at most ten.

    Raise `UnreadableMail`.
    """
    found = await _parse(content, parse_mail.PICTURES)
    return [(name, b64decode(encoded)) for name, encoded in found]


async def _parse(content: bytes, *arguments: str) -> Any:
    done = await process.run(
        [sys.executable, "-I", "-S", parse_mail.__file__, *arguments],
        folder="/",
        environment={},
        stdin=content,
        seconds=PARSE_SECONDS,
        output=HeadPipe(MAX_PARSED_BYTES),
        grace_seconds=0.0,
    )
    try:
        return json.loads(done.output)
    except ValueError:  # it exceeds a limit, or is nested too deeply
        why = "its parts need too much time or memory; do not read this mail"
        raise UnreadableMail(why) from None
