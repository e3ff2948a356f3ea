"""Signing secrets of Standard Webhooks; this module is small, because help texts import it."""

from __future__ import annotations

import base64

SIGNING_SECRET_FORMAT = "use whsec_ followed by 24 to 64 bytes in base64 (Standard Webhooks)"
"""Format of a signing secret, for error messages; `signing_key` parses such a secret."""


def signing_key(secret: str) -> bytes:
    """Return the key of a Standard Webhooks secret; empty if ``secret`` is not valid."""
    prefix, _, encoded = secret.partition("_")
    try:
        key = base64.b64decode(encoded, validate=True)
    except ValueError:
        return b""
    return key if prefix == "whsec" and 24 <= len(key) <= 64 else b""
