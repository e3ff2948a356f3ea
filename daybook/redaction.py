"""Replacement of secrets in texts that are shown, logged or stored."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

HIDDEN = "********"
"""The replacement for a secret that has no name."""


TOKEN_PREFIX = "dbt_"
"""Prefix of a claim's token. The text after it is the result of `token_urlsafe` for 32 bytes."""

_TOKEN = re.compile(rf"{TOKEN_PREFIX}(?=[a-z0-9_-]{{0,42}}[A-Z])[A-Za-z0-9_-]{{43}}")

_CUT_TOKEN = re.compile(rf"{TOKEN_PREFIX}[A-Za-z0-9_-]{{1,42}}\Z")

MIN_PART_LENGTH = 4
"""Minimum length, in characters, of the part of a secret that is replaced at the end of a text."""


def redact(text: str, secrets: Mapping[str, str], *, is_cut: bool = False) -> str:
    """Return ``text`` with each secret, a key of ``secrets``, replaced by its value there.

    The longest secret is replaced first, because it may contain another secret. Redact a text
    before you truncate it, because `redact` does not find a part of a secret. Set ``is_cut`` only
    for a text whose end was never received. Then replace also the start of a secret at the end of
    the text, after which half a character may stand (U+FFFD).
    """
    end = ""
    if is_cut and secrets:
        # First, because the start of a secret may contain another secret.
        text = text.rstrip("\ufffd")
        length, secret = max((_cut_length(text, secret), secret) for secret in secrets)
        if length:
            text, end = text[:-length], secrets[secret]
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, secrets[secret])
    return text + end


def _cut_length(text: str, secret: str) -> int:
    """Return the length of the longest start of ``secret`` with which ``text`` ends; 0 if none."""
    longest = min(len(text), len(secret) - 1)
    lengths = range(longest, MIN_PART_LENGTH - 1, -1)
    return next((each for each in lengths if text.endswith(secret[:each])), 0)


def spellings(secret: str) -> Iterator[str]:
    """Yield a secret unchanged, as JSON writes it, and as Python's error messages quote it.

    The spellings differ if the secret contains a line break, a quotation mark or a backslash.
    """
    yield secret
    yield json.dumps(secret)[1:-1]
    yield json.dumps(secret, ensure_ascii=False)[1:-1]
    yield repr(secret)[1:-1]
    yield repr(f'"{secret}')[2:-1]  # the secret stands beside a quotation mark


def redact_tokens(text: str, *, is_cut: bool = False) -> str:
    """Return the text with each claim token shortened to its prefix.

    No token may be stored or logged. Set ``is_cut`` for a text whose end was not received: then
    shorten also the start of a token at the end of the text.
    """
    text = _TOKEN.sub(f"{TOKEN_PREFIX}…", text)
    return _CUT_TOKEN.sub(f"{TOKEN_PREFIX}…", text) if is_cut else text


_remembered: dict[str, str] = {}


def remember(secrets: Mapping[str, str]) -> None:
    """Let `redact_remembered` replace ``secrets``, which have the format of `redact`.

    Call this for each secret that the process gets, because spans of libraries may contain it.
    """
    _remembered.update(secrets)


def redact_remembered(text: str, *, is_cut: bool = False) -> str:
    """Return ``text``, as by `redact`, without the secrets that this process has got so far."""
    return redact(text, dict(_remembered), is_cut=is_cut)


def hide_in(value: Any, hide: Callable[[str], str]) -> Any:
    """Return a JSON value with ``hide`` applied to each string, also to the names in objects."""
    match value:
        case str():
            return hide(value)
        case list() | tuple():
            return [hide_in(each, hide) for each in value]
        case dict():
            return {hide(str(name)): hide_in(each, hide) for name, each in value.items()}
        case _:
            return value
