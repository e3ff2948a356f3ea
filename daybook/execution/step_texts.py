"""Texts of steps as the ledger stores them: without secrets, and shortened."""

from __future__ import annotations

from daybook.redaction import redact_remembered, redact_tokens
from daybook.short_text import shorten

MAX_TEXT_CHARACTERS = 2_000
"""Maximum length of a step's input, output or error in the ledger, in characters."""

MAX_SHOWN_CHARACTERS = 16_000
"""Maximum length of the text so far of a reply that arrives, in characters; its end is stored."""

SHOWN_BLOCK_CHARACTERS = 4_000
"""The stored end of a text begins at a multiple of this number, so that its beginning rarely moves.
"""


def stored_text(text: str) -> str:
    """Return a text of a step for the ledger: without tokens of claims, and shortened."""
    return shorten(redact_tokens(text), MAX_TEXT_CHARACTERS)


def shown_text(text: str) -> str:
    """Return the end of a text that still grows, for the ledger, without secrets.

    It contains no part of a secret either, at none of its ends.
    """
    text = redact_tokens(redact_remembered(text, is_cut=True), is_cut=True)
    excess = len(text) - MAX_SHOWN_CHARACTERS
    if excess <= 0:
        return text
    start = -(-excess // SHOWN_BLOCK_CHARACTERS) * SHOWN_BLOCK_CHARACTERS
    return f"…\n\n{text[start:]}"
