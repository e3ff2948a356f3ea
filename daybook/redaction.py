"""Replacement of secrets in texts that are shown, logged or stored."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

HIDDEN = "********"
"""The replacement for a secret that has no name."""


def redact(text: str, secrets: Mapping[str, str]) -> str:
    """Return ``text`` with each secret, a key of ``secrets``, replaced by its value there.

    The longest secret is replaced first, because it may contain another secret. Redact a text
    before you truncate it, because `redact` does not find a part of a secret.
    """
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, secrets[secret])
    return text


def spellings(secret: str) -> Iterator[str]:
    """Yield a secret unchanged, as JSON writes it, and as Python's error messages quote it.

    The spellings differ if the secret contains a line break, a quotation mark or a backslash.
    """
    yield secret
    yield json.dumps(secret)[1:-1]
    yield json.dumps(secret, ensure_ascii=False)[1:-1]
    yield repr(secret)[1:-1]
    yield repr(f'"{secret}')[2:-1]  # the secret stands beside a quotation mark
