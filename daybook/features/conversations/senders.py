"""Who has written a letter: a `From` that is not verified may be forged, so it counts for nothing.

============================  ================================================================
a letter is verified by       because
============================  ================================================================
the topmost                   the receiving server has added it, if its first word is the id of
`Authentication-Results`      this server: `dmarc=pass`, or `dkim=pass` for the domain of `From`.
                              A header with this id further down may be forged (RFC 8601 §5).
the code of the person        it is in the Message-ID of each letter to this person, and in its
                              `Reply-To`, so only a person who has got one can answer it.
============================  ================================================================

The code is an HMAC of the channel and the address by a key of this home. A person who sends a
copy of a reply to others shows them the code: they could then write in the person's name.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable
from dataclasses import dataclass

from daybook import home as homes
from daybook.execution import parse_mail
from daybook.execution.mail_text import MailText
from daybook.features.conversations.settings import MAIL_ADDRESS
from daybook.short_text import clip

MAX_NAME = 80
_CODE_LENGTH = 24
"""Number of hexadecimal digits of a code; four bits each."""
_FROM = re.compile(
    r'(?P<name>"(?:[^"\\]|\\.)*" ?|[^"<>,;:@\\]*)'
    rf"<(?P<address>{MAIL_ADDRESS})>|(?P<bare>{MAIL_ADDRESS})"
)
_MESSAGE_ID = re.compile(r"<([^\s<>]{1,900})>")
_RESULT = re.compile(r"(?<![A-Za-z0-9./_-])([A-Za-z0-9./_-]+) ?= ?([^\s=]+)")


@dataclass(frozen=True)
class LetterSender:
    """The person in the header `From`; the ``address`` is in lower case."""

    address: str
    name: str


def is_address(text: str) -> bool:
    """Return whether a text is one address of ASCII, and nothing else."""
    return re.fullmatch(MAIL_ADDRESS, text) is not None


def sender_of(mail: MailText) -> LetterSender | None:
    """Return the sender; None if `From` is missing, has several addresses, or is malformed.

    Such a header could mean one person here, and another one to the server that has verified it.
    """
    given = mail.all("From")
    found = _FROM.fullmatch(given[0]) if len(given) == 1 else None
    if found is None:
        return None
    address = (found["address"] or found["bare"]).lower()
    name = parse_mail.decoded((found["name"] or "").strip().strip('"'))
    return LetterSender(address, clip(name, MAX_NAME) or address)


def message_ids(value: str) -> list[str]:
    """Return the ids in a header such as `References`, without their angle brackets."""
    return [each for each in _MESSAGE_ID.findall(value) if each.isascii() and each.isprintable()]


# --- codes


def code_of(channel: str, address: str) -> str:
    """Return the code of the person with this address, for letters of the channel."""
    key = f"code of a letter\n{homes.current_home().browser_key()}"
    content = f"{channel}\n{address.lower()}".encode(errors="replace")
    return hmac.new(key.encode(), content, hashlib.sha256).hexdigest()[:_CODE_LENGTH]


def has_code(channel: str, address: str, texts: Iterable[str]) -> bool:
    """Return whether one of ``texts`` is the code of the person with this address."""
    code = code_of(channel, address).encode()
    return any([hmac.compare_digest(code, each.encode(errors="replace")) for each in texts])


def code_in_id(message_id: str) -> str:
    """Return the part of a Message-ID that has the code if it is one of Daybook's."""
    return message_id.partition("@")[0].rpartition(".")[2]


# --- Authentication-Results


def is_authentic(mail: MailText, address: str, authserv_id: str) -> bool:
    """Return whether the server with this id has verified the domain of ``address``."""
    segments = _segments(mail.first("Authentication-Results"))
    if not authserv_id or not segments:
        return False
    server, _, version = segments[0].partition(" ")
    if server.lower() != authserv_id.lower() or version not in ("", "1"):
        return False
    domain = address.rpartition("@")[2]
    found = [_RESULT.findall(each) for each in segments[1:]]
    results = [
        (pairs[0][0].lower().partition("/")[0], pairs[0][1].lower(), _properties(pairs[1:]))
        for pairs in found
        if pairs
    ]
    dmarc = [each for each in results if each[0] == "dmarc"]
    if dmarc and any(result not in ("pass", "none") for _, result, _ in dmarc):
        return False
    return any(
        result == "pass" and properties.get("header.from", domain) == domain
        for _, result, properties in dmarc
    ) or any(
        method == "dkim" and result == "pass" and _is_aligned(domain, properties)
        for method, result, properties in results
    )


def _properties(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    return {name.lower(): value.lower() for name, value in pairs}


def _is_aligned(domain: str, properties: dict[str, str]) -> bool:
    """Return whether the domain that has signed is ``domain``, or one above it."""
    signer = properties.get("header.d") or properties.get("header.i", "").rpartition("@")[2]
    return "." in signer and (domain == signer or domain.endswith(f".{signer}"))


def _segments(value: str) -> list[str]:
    """Return the parts of a header between its semicolons, without comments; [] if malformed.

    In a quoted text, which an attacker may have written, `?` replaces what could be syntax.
    """
    parts, depth, in_quotes, is_escaped = [""], 0, False, False
    for each in value:
        if is_escaped:
            is_escaped = False
            shown = "?" if in_quotes else ""
        elif each == "\\" and (in_quotes or depth):
            is_escaped, shown = True, ""
        elif each == '"' and not depth:
            in_quotes, shown = not in_quotes, ""
        elif in_quotes:
            shown = each if each.isalnum() or each in "@.-_+" else "?"
        elif each in "()":
            depth += 1 if each == "(" else -1
            shown = " "
        elif depth:
            shown = ""
        elif each == ";":
            parts.append("")
            continue
        else:
            shown = each
        if depth < 0:
            return []
        parts[-1] += shown
    return [] if depth or in_quotes else [" ".join(each.split()) for each in parts]
