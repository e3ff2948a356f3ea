"""What attempts took, added up. The keys are those of `daybook.agents.base.AgentReply.usage`.

One is added here: `KNOWN`, where a sum of tokens is unknown and some of its parts are not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import reduce
from typing import Any

KNOWN = "known_tokens"
"""Tokens that were told, in and out, where others were not: a budget counts them."""

_TOKENS = ("input_tokens", "output_tokens")


def total(parts: Iterable[Mapping[str, Any] | None]) -> dict[str, Any] | None:
    """The sum of these; None where nobody told anything.

    A key that one of them leaves out is 0 there. What one of them says is not known, by None, is
    not known of the sum: a price, say. What cannot be added is the last one's.
    """
    told = [dict(part) for part in parts if part is not None]
    if not told:
        return None
    known = sum(map(tokens, told))
    for part in told:
        part.pop(KNOWN, None)
    both = reduce(_sum, told)
    return both if tokens(both) == known else {**both, KNOWN: known}


def tokens(usage: Mapping[str, Any] | None) -> int:
    """What an answer, an attempt or a run took in all; what it did not tell counts as nothing."""
    told = usage or {}
    return int(told.get(KNOWN) or sum(int(told.get(name) or 0) for name in _TOKENS))


def _sum(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    names = {**first, **second}
    return {name: _plus(first.get(name, 0), second.get(name, 0)) for name in names}


def _plus(one: Any, other: Any) -> Any:
    if one is None or other is None:
        return None
    if isinstance(one, int | float) and isinstance(other, int | float):
        return one + other
    return other or one
