"""Splitting of a long Markdown text into messages of a chat, at paragraphs where possible."""

from __future__ import annotations

import re

from daybook.delivery.channels.text import length

_FENCE = re.compile(r"^ {0,3}(?P<marks>`{3,}|~{3,})(?P<info>[^`\n]*)$")
_MAX_INFO = 40
"""Maximum length of the language after a fence that is repeated in the next part, in characters."""


def split(text: str, limit: int) -> list[str]:
    """Return ``text`` as parts of at most ``limit`` UTF-16 code units, none of them blank.

    A part ends at the end of a paragraph, else of a line, else of a word. A code block that
    continues in the next part is closed and opened again.
    """
    parts, rest, opening = list[str](), text.strip("\n"), ""
    while rest.strip():
        head = _head(rest, limit - length(opening) - (_closing_room(opening)))
        rest = rest[len(head) :].lstrip("\n")
        part = opening + head.rstrip()
        opening, closing = _open_fence(part)
        if rest.strip() and closing:
            part = f"{part}\n{closing}"
        parts.append(part)
    return parts


def _closing_room(opening: str) -> int:
    """Return the number of code units to reserve for a closing fence: also for one that opens."""
    return max(length(opening), _MAX_INFO) + 1


def _head(text: str, limit: int) -> str:
    """Return the longest beginning of ``text`` within ``limit`` that ends at a good place."""
    if length(text) <= limit:
        return text
    head = text[: max(limit, 1)]
    while length(head) > limit and len(head) > 1:
        head = head[: -max((length(head) - limit + 1) // 2, 1)]
    for end in ("\n\n", "\n", " "):
        at = head.rfind(end)
        if at >= len(head) // 3 or (end == "\n\n" and at >= len(head) // 4):
            return head[: at + len(end)]
    return head


def _open_fence(part: str) -> tuple[str, str]:
    """Return the line that opens the code block at the end of ``part`` again, and its closing one.

    Both are "" if no code block is open.
    """
    marks = info = ""
    for line in part.split("\n"):
        found = _FENCE.match(line)
        if found is None:
            continue
        if not marks:
            marks, info = found["marks"], found["info"].strip()[:_MAX_INFO]
        elif found["marks"].startswith(marks) and not found["info"].strip():
            marks = info = ""
    return (f"{marks}{info}\n", marks) if marks else ("", "")
