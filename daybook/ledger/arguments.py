"""Arguments of the call about which a question asks a person, as JSON and as texts.

A model chooses the arguments and their order. So no argument may push another one out of the text:
`short` shortens each argument by itself and lists all names. The ledger stores the arguments as
`write` returns them, which are the arguments of the call that an approval allows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from daybook.json_text import JsonObject
from daybook.ledger import texts
from daybook.short_text import shorten

MAX_BYTES = 65_536
"""Maximum size of the arguments of a call that a person has to approve, as JSON in UTF-8."""

MAX_SHORT_CHARACTERS = 2_000
"""Maximum sum of the lengths of the values in a short text."""
MIN_VALUE_CHARACTERS = 40
MAX_NAME_CHARACTERS = 100


def write(arguments: Mapping[str, Any]) -> str:
    """Return the arguments as JSON for the ledger."""
    return json.dumps(texts.sanitize(dict(arguments)), ensure_ascii=False, default=str)


def is_storable(arguments: Mapping[str, Any]) -> bool:
    """Return whether `write` changes no character and no number of the arguments.

    Of two names that differ only in an unstorable character, the ledger would keep one.
    """
    return bool(texts.sanitize(dict(arguments)) == arguments)


def read(text: str) -> JsonObject | None:
    """Return the arguments that `write` has written; None for another text."""
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def size(text: str) -> int:
    """Return the number of bytes of a text in UTF-8."""
    return len(text.encode(errors="surrogatepass"))


def full(arguments: Mapping[str, Any]) -> str:
    """Return the whole arguments as text for people, one line for each argument."""
    return "\n".join(f"{_visible(name)}={_value(each)}" for name, each in arguments.items())


def short(arguments: Mapping[str, Any]) -> str:
    """Return the arguments as text for people, one shortened line for each argument."""
    longest = max(MIN_VALUE_CHARACTERS, MAX_SHORT_CHARACTERS // max(1, len(arguments)))
    return "\n".join(
        f"{_short_name(name)}={shorten(_value(each), longest, inline=True)}"
        for name, each in arguments.items()
    )


def names(arguments: Mapping[str, Any]) -> str:
    """Return the names of the arguments, on one line."""
    return ", ".join(map(_short_name, arguments))


def _short_name(name: str) -> str:
    return shorten(_visible(name), MAX_NAME_CHARACTERS, inline=True)


def _value(value: Any) -> str:
    return _visible(json.dumps(value, ensure_ascii=False, default=str))


def _visible(text: str) -> str:
    """Return the text with escapes in place of characters that are invisible or move others."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else json.dumps(each)[1:-1] for each in text)
