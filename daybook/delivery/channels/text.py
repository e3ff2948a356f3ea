"""What a channel is given of a text: cut to its limit, ringing nobody, as HTML where it must be.

A cut is seen: the last line says how much is missing and where it can be read::

    … the beginning, up to a line's or a word's end
    [… 38,104 more characters: `daybook show 4f0c2a91d3e7`]
"""

from __future__ import annotations

import html
import re

from daybook.delivery.channels.base import Message

_ROOM = 24
"""A cut looks for a line's or a word's end in so many hundredths of the text before it."""

# What rings a bell when a bot writes it: a whole chat's, or in Slack and Discord somebody's. For
# Slack apprise writes `<!channel>` also of what lacks the first sign of it.
_RINGS = re.compile(
    r"[@!](?=(everyone|here|channel|all|subteam)\b)|@(?=[!&]?\w+[>|])", re.IGNORECASE
)
_INVISIBLE = "\u200b"

_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})", re.MULTILINE)
_BLANKS = re.compile(r"^ +|(?<= ) +", re.MULTILINE)


def size(text: str) -> int:
    """How long a text is to a channel. Some count as UTF-16 does, and none counts more."""
    return len(text) + sum(each > "\uffff" for each in text)


def shortened(text: str, limit: int) -> str:
    """One line of at most ``limit``, marked where it is cut."""
    line = " ".join(text.split())
    return line if size(line) <= limit else _head(line, max(limit - 1, 0)).rstrip() + "…"


def cut(message: Message, limit: int, lines: int = 0) -> str:
    """The message's body in at most ``limit``; what is missing is told in a last line.

    ``lines`` is how many lines it may have, 0 as many as it has.
    """
    body = message.body.strip()
    too_many = bool(lines) and body.count("\n") >= lines
    if size(body) <= limit and not too_many:
        return body
    for where in _where(message):
        # The number is one of at most this many digits.
        room = limit - size(_told(len(body), where)) - 1
        if room >= limit // 2:
            break
    else:
        return shortened(body, limit)
    if too_many:
        room = min(room, len("\n".join(body.split("\n")[: lines - 1])))
    head = _at_an_end(body, room)
    if fence := _open_fence(head):
        head = _at_an_end(body, room - len(fence) - 1) + f"\n{fence}"
        missing = len(body) - len(head) + len(fence) + 1
    else:
        missing = len(body) - len(head)
    return f"{head}\n{_told(missing, where)}"


def _where(message: Message) -> list[str]:
    """Where the rest can be read, the longest way of saying it first."""
    show = f": `daybook show {message.run_id[:12]}`" if message.run_id else ""
    whole = [f"{show}, or {message.run_url}"] if show and message.run_url else []
    return [*whole, *filter(None, [show]), ""]


def _told(missing: int, where: str) -> str:
    return f"[… {missing:,} more characters{where}]"


def _head(text: str, limit: int) -> str:
    """As much of the beginning as fits, no character split."""
    head = text[: max(limit, 0)]
    while (over := size(head) - limit) > 0:
        head = head[: -((over + 1) // 2)]  # each is worth two at most
    return head


def _at_an_end(text: str, limit: int) -> str:
    """As much of the beginning as fits, up to a line's end, or a word's, where one is near."""
    head = _head(text, limit)
    least = len(head) - len(head) * _ROOM // 100
    for end in ("\n", " "):
        if text.startswith(end, len(head)):
            return head.rstrip()
        if (at := head.rfind(end)) >= least:
            return head[:at].rstrip()
    return head.rstrip()


def _open_fence(markdown: str) -> str:
    """What ends the block of code in which a text stops; empty where it stops in none."""
    fence = ""
    for found in _FENCE.finditer(markdown):
        if not fence:
            fence = found[1]
        elif found[1].startswith(fence):
            fence = ""
    return fence


def quiet(text: str) -> str:
    """The same words to a reader, and no bell for everybody: a model may have written them."""
    return _RINGS.sub(lambda found: found[0] + _INVISIBLE, text)


def as_html(text: str) -> str:
    """Plain text as HTML that shows it as it is: nothing in it is a tag, no line is lost."""
    kept = html.escape(text, quote=False)
    kept = _BLANKS.sub(lambda found: "&nbsp;" * len(found[0]), kept)
    return kept.replace("\n", "<br/>")


def sayable(text: str) -> str:
    """Without what drives a terminal: control characters are shown as escapes."""
    return "".join(
        each if each.isprintable() or each in "\n\t" else ascii(each)[1:-1] for each in text
    )
