"""Number formatting and percentiles for the tables."""

from __future__ import annotations

import math
from collections.abc import Sequence


def worst(values: Sequence[float]) -> float:
    """Return the 99th percentile by nearest rank: the maximum of fewer than a hundred values."""
    return sorted(values)[math.ceil(0.99 * len(values)) - 1]


def worst_is(values: Sequence[float]) -> str:
    """Return the name of the statistic that `worst` yields for this number of values."""
    return "p99" if len(values) >= 100 else "max"


def short(value: float) -> str:
    """Return the value with three significant digits and at most two or three decimals."""
    if value == 0:
        return "0"
    return f"{value:.{2 if value >= 1 else 3}f}" if value < 10 else f"{value:.{int(value < 100)}f}"


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def head(*cells: str) -> str:
    return f"{row(*cells)}\n|{'---|' * len(cells)}"
