"""Sums of the usage of attempts, and the amounts that budgets count.

A usage has the keys of `daybook.ledger.states.Usage`. A sum has one more key,
`KNOWN_TOKENS`, if the total of the tokens is unknown but some of its parts are known.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any

from daybook.ledger.states import Usage

KNOWN_TOKENS = "known_tokens"
"""Key for the sum of the reported tokens, in and out, if some were not reported.

Budgets count this sum.
"""

MAX_COUNT, MAX_USD = 10**12, 1e9
"""Maximum number of tokens or requests, and maximum cost in US dollars, that a report may have."""

_MAX_WRITTEN = 10**300  # a larger integer may not fit into a float
_TOKENS = ("input_tokens", "output_tokens")


def checked(reported: Mapping[str, Any]) -> tuple[Usage, str]:
    """Return a report with impossible numbers as None, and a warning, or "".

    So every sum of reports fits into the ledger's columns.
    """
    wrong = {name: value for name, value in reported.items() if not _is_possible(name, value)}
    if not wrong:
        return dict(reported), ""
    numbers = ", ".join(f"{name} {_written(value)}" for name, value in wrong.items())
    return {**reported, **dict.fromkeys(wrong)}, f"the reported usage is impossible: {numbers}"


def _written(value: float) -> str:
    return "1e300 or more" if value >= _MAX_WRITTEN else f"{value:.3g}"


def _is_possible(name: str, value: Any) -> bool:
    return value is None or 0 <= value <= (MAX_USD if name == "cost_usd" else MAX_COUNT)


@dataclass(frozen=True)
class Amount:
    """The amount that budgets count: tokens in and out, US dollars, and unpriced requests.

    ``unpriced`` is the number of requests at an unknown price; ``usd`` does not contain them.
    """

    tokens: int = 0
    usd: float = 0.0
    unpriced: int = 0

    @classmethod
    def of(cls, usage: Mapping[str, Any] | None) -> Amount:
        """Return the amount of a usage.

        Unreported tokens count as 0. Requests at an unknown price are counted as ``unpriced``.
        """
        if not usage:
            return cls()
        dollars, used = usage.get("cost_usd"), tokens(usage)
        if dollars is not None:
            return cls(used, float(dollars))
        requests = usage.get("requests")
        # An attempt that only replays earlier requests reports 0 requests.
        return cls(used, 0.0, 0 if requests == 0 and not used else int(requests or 1))

    def __add__(self, other: Amount) -> Amount:
        return Amount(
            self.tokens + other.tokens, self.usd + other.usd, self.unpriced + other.unpriced
        )


def total(parts: Iterable[Mapping[str, Any] | None]) -> Usage | None:
    """Return the sum of ``parts``; None if all of them are None.

    A missing key counts as 0. If one value is None (unknown, such as a price), the sum is None. Of
    values that cannot be added, keep the last value that is not empty.
    """
    reported = [dict(part) for part in parts if part is not None]
    if not reported:
        return None
    known = sum(map(tokens, reported))
    for part in reported:
        part.pop(KNOWN_TOKENS, None)
    summed = reduce(_sum, reported)
    return summed if tokens(summed) == known else {**summed, KNOWN_TOKENS: known}


def tokens(usage: Mapping[str, Any] | None) -> int:
    """Return the tokens that an answer, an attempt or a run used; unreported ones count as 0."""
    reported = usage or {}
    return int(reported.get(KNOWN_TOKENS) or sum(int(reported.get(name) or 0) for name in _TOKENS))


def _sum(first: Usage, second: Usage) -> Usage:
    names = {**first, **second}
    return {name: _plus(first.get(name, 0), second.get(name, 0)) for name in names}


def _plus(first: Any, second: Any) -> Any:
    if first is None or second is None:
        return None
    if isinstance(first, int | float) and isinstance(second, int | float):
        return first + second
    return second or first
