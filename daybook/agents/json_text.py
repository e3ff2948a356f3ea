"""Parser of JSON in an agent's answer.

Python's parser accepts more than JSON: ``NaN``, ``Infinity``, and numbers such as ``1e999``, which
become infinite. This parser refuses such values, because the ledger cannot store them.

Models often write words around the JSON. The candidates in such an answer are its *pieces*: its
fenced blocks, and all texts in brackets outside of the blocks. `find` parses a single piece. It
refuses an answer with several pieces, even if only one of them is JSON, because it is unclear which
piece is the answer.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

MAX_DEPTH = 100
"""Maximum nesting of lists and objects. Any program can then serialize the value."""


def read(text: str) -> Any:
    """Return the JSON value of ``text``.

    Raise a ValueError with the reason if ``text`` is not JSON, or if its value cannot be stored.
    """
    try:
        value = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite_float)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    _check_depth(value)
    return value


def find(text: str) -> Any:
    """Return the JSON value of ``text``.

    If ``text`` is not JSON, return the value of its only piece. Raise a ValueError with the reason
    if there is no such value. Use this function for complete texts only, because a shortened text
    may lack another piece.
    """
    try:
        return read(text)
    except ValueError:
        pieces = _pieces(text)
        if not pieces:
            raise
    if len(pieces) > 1:
        raise ValueError(f"it contains {len(pieces)} pieces that could be the JSON value")
    return read(pieces[0])


_OPENING = re.compile(r"[ \t]*+(`{3,}+|~{3,}+)[^`]*+")
_BRACKET = re.compile(r"[\[\]{}]")
_BRACKET_OR_STRING = re.compile(r'[\[\]{}]|"(?:[^"\\]|\\.)*"?', re.DOTALL)


def _pieces(text: str) -> list[str]:
    """Return all pieces of ``text``.

    This takes linear time, because ``text`` comes from a model and may be hostile.
    """
    pieces: list[str] = []
    plain: list[str] = []
    fenced: list[str] = []
    fence = ""
    for line in text.splitlines(keepends=True):
        if fence and line.strip() == fence:
            pieces.append("".join(fenced))
            fenced, fence = [], ""
        elif fence:
            fenced.append(line)
        elif opening := _OPENING.fullmatch(line.rstrip()):
            pieces += _bracketed("".join(plain))
            plain, fence = [], opening[1]
        else:
            plain.append(line)
    return pieces + _bracketed("".join([*plain, *fenced]))


def _bracketed(text: str) -> list[str]:
    """Return the bracketed parts, with their brackets. An unclosed part extends to the end."""
    pieces, begin, depth, position = [], 0, 0, 0
    while match := (_BRACKET_OR_STRING if depth else _BRACKET).search(text, position):
        position = match.end()
        if match[0] in ("[", "{"):
            begin = begin if depth else match.start()
            depth += 1
        elif match[0] in ("]", "}") and depth:
            depth -= 1
            if not depth:
                pieces.append(text[begin:position])
    return [*pieces, text[begin:]] if depth else pieces


_TOO_DEEP = f"lists and objects are nested more than {MAX_DEPTH} levels deep"


def _refuse_constant(word: str) -> None:
    raise ValueError(f"{word} is not JSON")


def _finite_float(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"the number {digits[:40]} is too large")
    return number


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [inner for each in level for inner in _children(each)]
        if not level:
            return
    if any(isinstance(each, (dict, list)) for each in level):
        raise ValueError(_TOO_DEEP)


def _children(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []
