"""Characters that a reader of a text does not see, or that change how a terminal shows it.

A change may hide what it does behind such characters: controls of the direction of text show code
in another order than it runs, and terminals obey escape sequences.
"""

from __future__ import annotations

import regex  # type: ignore[import-untyped]

HIDDEN = regex.compile(
    r"(?V1)[[\p{C}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}]--[\t\uFE0F]]"
    r"|(?<!\p{So})\uFE0F"  # it belongs to an emoji
)
"""Control and format characters, separators of lines, and characters without a sign."""


def name_of(character: str) -> str:
    """Return a short visible name: ``^[`` as git writes it, or the code point, ``U+202E``."""
    code = ord(character)
    return f"^{chr(code + 64)}" if code < 0x20 else f"U+{code:04X}"


def visible(text: str) -> str:
    """Return ``text`` with the names of its hidden characters instead of them."""
    if text.isascii() and text.isprintable():
        return text
    shown: str = HIDDEN.sub(lambda found: f"⟨{name_of(found[0])}⟩", text)
    return shown
