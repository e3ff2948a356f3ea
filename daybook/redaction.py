"""Replacement of secrets in texts that are shown, logged or stored."""

from __future__ import annotations

from collections.abc import Mapping

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
