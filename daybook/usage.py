"""Usage of a run, a step or a period: the names of its amounts, and the amounts as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from daybook.money_text import money

TOKENS = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens")
"""Names of the token counts of a usage.

The tokens read from the provider's prompt cache, and the tokens written to it, are parts of the
input tokens.
"""
COST = "cost_usd"


def tokens_in_words(usage: Mapping[str, Any]) -> str:
    """Return `412 tokens in (300 from cache, 50 to cache), 58 out`; "" if counts are unknown."""
    if usage.get("input_tokens") is None:
        return ""
    words = ("from cache", "to cache")
    counts = [int(usage.get(name) or 0) for name in TOKENS[2:]]
    cached = ", ".join(f"{n:,} {each}" for n, each in zip(counts, words, strict=True) if n)
    part = f" ({cached})" if cached else ""
    return f"{usage['input_tokens']:,} tokens in{part}, {usage.get('output_tokens') or 0:,} out"


def cost_in_words(usage: Mapping[str, Any], unknown: str = "price unknown") -> str:
    """Return `$0.000018`, or ``unknown`` for an unknown price; empty if there is no usage."""
    if not usage:
        return ""
    dollars = usage.get("cost_usd")
    return unknown if dollars is None else money(dollars, 6)
