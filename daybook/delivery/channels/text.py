"""Text processing for channels: truncation, muted mentions, and HTML.

The last line of a truncated text has the number of omitted characters and the place of the full
text. If there is no room for such a line, the text is one line with a mark::

    … the beginning, up to the end of a line or word
    [… 38,104 more characters: `daybook show 4f0c2a91d3e7`]
"""

from __future__ import annotations

import html
import re

from daybook.delivery.channels.base import Message

_CUT_PERCENT = 24
"""Percentage of a text, at its end, in which truncation searches for the end of a line or word."""

# These mentions notify a whole chat or, in Slack and Discord, one user if a bot writes them. For
# Slack, apprise also writes `<!channel>` if the `<` is missing in the text.
_RINGS = re.compile(
    r"[@!](?=(everyone|here|channel|all|subteam)\b)|@(?=[!&]?\w+[>|])", re.IGNORECASE
)
_ZERO_WIDTH_SPACE = "\u200b"

_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})", re.MULTILINE)
_BLANKS = re.compile(r"^ +|(?<= ) +", re.MULTILINE)


def length(text: str) -> int:
    """Return the length in UTF-16 code units, which the strictest channels count."""
    return len(text) + sum(each > "\uffff" for each in text)


def shorten_line(text: str, limit: int) -> str:
    """Return the text as one line of at most ``limit`` code units; if truncated, with a mark."""
    line = " ".join(text.split())
    return line if length(line) <= limit else _longest_head(line, max(limit - 1, 0)).rstrip() + "…"


def truncate(message: Message, limit: int, lines: int = 0) -> str:
    """Return the message's body and note, truncated to at most ``limit`` code units.

    The last line of a truncated body has the number of omitted characters. If there is no room for
    such a line, return one line with a mark. ``lines`` is the maximum number of lines; 0 means no
    maximum. The note is whole, or it is left out if it would need more than half of the space.
    """
    note = f"\n\n{message.note}" if message.note else ""
    has_space = length(note) <= limit // 2 and (not lines or note.count("\n") <= lines // 2)
    if not note or not has_space:
        return _truncate_body(message, limit, lines)
    body = _truncate_body(message, limit - length(note), max(lines - note.count("\n"), 0))
    return (body + note).strip()


def _truncate_body(message: Message, limit: int, lines: int) -> str:
    body = message.body.strip()
    too_many = bool(lines) and body.count("\n") >= lines
    if length(body) <= limit and not too_many:
        return body
    for hint in _full_text_hints(message):
        # The number of omitted characters has no more digits than the length of the body.
        space = limit - length(_omission_note(len(body), hint)) - 1
        if space >= limit // 2:
            break
    else:
        return shorten_line(body, limit)
    if too_many:
        space = min(space, len("\n".join(body.split("\n")[: lines - 1])))
    head = _head_to_boundary(body, space)
    if fence := _open_fence(head):
        head = _head_to_boundary(body, space - len(fence) - 1) + f"\n{fence}"
        missing = len(body) - len(head) + len(fence) + 1
    else:
        missing = len(body) - len(head)
    return f"{head}\n{_omission_note(missing, hint)}"


def _full_text_hints(message: Message) -> list[str]:
    """Return descriptions of the place of the full text, the longest first."""
    show = f": `daybook show {message.run_id[:12]}`" if message.run_id else ""
    whole = [f"{show}, or {message.run_url}"] if show and message.run_url else []
    return [*whole, *filter(None, [show]), ""]


def _omission_note(missing: int, hint: str) -> str:
    return f"[… {missing:,} more characters{hint}]"


def _longest_head(text: str, limit: int) -> str:
    """Return the longest prefix of at most ``limit`` code units. Do not split a character."""
    head = text[: max(limit, 0)]
    while (over := length(head) - limit) > 0:
        head = head[: -((over + 1) // 2)]  # each character counts at most twice
    return head


def _head_to_boundary(text: str, limit: int) -> str:
    """Return the longest prefix that fits. If a line or word ends near its end, end it there."""
    head = _longest_head(text, limit)
    least = len(head) - len(head) * _CUT_PERCENT // 100
    for end in ("\n", " "):
        if text.startswith(end, len(head)):
            return head.rstrip()
        if (at := head.rfind(end)) >= least:
            return head[:at].rstrip()
    return head.rstrip()


def _open_fence(markdown: str) -> str:
    """Return the fence that closes an open code block; "" if no block is open."""
    fence = ""
    for found in _FENCE.finditer(markdown):
        if not fence:
            fence = found[1]
        elif found[1].startswith(fence):
            fence = ""
    return fence


def mute_mentions(text: str) -> str:
    """Mute mentions, perhaps by a model, that would notify a whole chat or a user."""
    return _RINGS.sub(lambda found: found[0] + _ZERO_WIDTH_SPACE, text)


def as_html(text: str) -> str:
    """Return HTML that shows a plain text unchanged, with its markup escaped and all its lines."""
    kept = html.escape(text, quote=False)
    kept = _BLANKS.sub(lambda found: "&nbsp;" * len(found[0]), kept)
    return kept.replace("\n", "<br/>")


def escape_controls(text: str) -> str:
    """Escape control characters except line breaks and tabs, so that none controls a terminal."""
    return "".join(
        each if each.isprintable() or each in "\n\t" else ascii(each)[1:-1] for each in text
    )
