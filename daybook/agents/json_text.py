"""JSON out of what an agent said: read in one way, whoever asked for it.

Python's reader takes more than JSON is: ``NaN``, ``Infinity``, and numbers such as ``1e999`` that
become infinite. Nothing that we write the answer into could hold them.
"""

from __future__ import annotations

import json
import math
from typing import Any

DEEPEST = 100
"""How many lists and objects may stand in each other, so that all who write it down can."""


def read(text: str) -> Any:
    """The value of ``text``. Raises ValueError, saying why it is none."""
    try:
        value = json.loads(text, parse_constant=_no_constant, parse_float=_finite)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    _check_depth(value)
    return value


_TOO_DEEP = f"more than {DEEPEST} lists and objects stand in each other"


def _no_constant(word: str) -> None:
    raise ValueError(f"{word} is not JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"the number {digits[:40]} is too large")
    return number


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(DEEPEST):
        level = [inner for each in level for inner in _inner(each)]
        if not level:
            return
    if any(isinstance(each, (dict, list)) for each in level):
        raise ValueError(_TOO_DEEP)


def _inner(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []
