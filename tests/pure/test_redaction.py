"""Replacement of secrets in texts."""

from __future__ import annotations

from daybook.redaction import redact


def test_each_secret_is_replaced_by_its_own_text_and_the_longest_first() -> None:
    secrets = {"abcd": "[SHORT]", "abcdef": "[LONG]", "": "[EMPTY]"}
    assert redact("abcdef, abcd and xyz", secrets) == "[LONG], [SHORT] and xyz"
