"""What attempts took, added up. The keys are those of `daybook.agents.base.AgentReply.usage`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import reduce
from typing import Any


def total(parts: Iterable[Mapping[str, Any] | None]) -> dict[str, Any] | None:
    """The sum of these; None where nobody told anything.

    A key that one of them leaves out is 0 there. What one of them says is not known, by None, is
    not known of the sum: a price, say. What cannot be added is the last one's.
    """
    told = [dict(part) for part in parts if part is not None]
    return reduce(_sum, told) if told else None


def _sum(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    names = {**first, **second}
    return {name: _plus(first.get(name, 0), second.get(name, 0)) for name in names}


def _plus(one: Any, other: Any) -> Any:
    if one is None or other is None:
        return None
    if isinstance(one, int | float) and isinstance(other, int | float):
        return one + other
    return other or one
