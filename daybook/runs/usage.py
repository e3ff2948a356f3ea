"""Sums of what attempts took. The keys are those of `daybook.agents.base.AgentReply.usage`.

One key is added: `KNOWN_TOKENS`, if a sum of tokens is unknown and some of its parts are known.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import reduce
from typing import Any

KNOWN = "known_tokens"
"""The sum of the reported tokens, in and out, if others were not reported: a budget counts them."""

_TOKENS = ("input_tokens", "output_tokens")


def total(parts: Iterable[Mapping[str, Any] | None]) -> dict[str, Any] | None:
    """Return the sum of these; None if none reported anything.

    A missing key counts as 0. If one value is None (unknown, such as a price), the sum is None. Of
    values that cannot be added, the last one is kept.
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
    """Return the tokens that an answer, an attempt or a run took; unreported ones count as zero."""
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
