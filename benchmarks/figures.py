"""Figures for a table."""

from __future__ import annotations

import math
from collections.abc import Sequence


def worst(values: Sequence[float]) -> float:
    """The 99th percentile by nearest rank: of fewer than a hundred values, the greatest."""
    return sorted(values)[math.ceil(0.99 * len(values)) - 1]


def worst_is(values: Sequence[float]) -> str:
    """What `worst` gives of so many values."""
    return "p99" if len(values) >= 100 else "max"


def short(value: float) -> str:
    """Three digits that count, and no more decimals than two or three."""
    if value == 0:
        return "0"
    return f"{value:.{2 if value >= 1 else 3}f}" if value < 10 else f"{value:.{int(value < 100)}f}"


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def head(*cells: str) -> str:
    return f"{row(*cells)}\n|{'---|' * len(cells)}"
