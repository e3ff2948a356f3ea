"""JSON out of what an agent said: read in one way, whoever asked for it.

Python's reader takes more than JSON is: ``NaN``, ``Infinity``, and numbers such as ``1e999`` that
become infinite. Nothing that we write the answer into could hold them.

Models like to put words around it. What may be meant by an answer with words are its *pieces*: its
fenced blocks and, outside of those, whatever stands in brackets. A single piece is read; of several
nobody knows which is the answer, not even where only one of them is JSON.
"""

from __future__ import annotations

import json
import math
import re
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


def find(text: str) -> Any:
    """The value of ``text``, or of the only piece of it. Raises ValueError, saying why it is none.

    For a whole text only: where it was cut, another piece may have followed.
    """
    try:
        return read(text)
    except ValueError:
        pieces = _pieces(text)
        if not pieces:
            raise
    if len(pieces) > 1:
        raise ValueError(f"{len(pieces)} pieces of it could be meant")
    return read(pieces[0])


_OPENING = re.compile(r"[ \t]*+(`{3,}+|~{3,}+)[^`]*+")
_BRACKET = re.compile(r"[\[\]{}]")
_BRACKET_OR_STRING = re.compile(r'[\[\]{}]|"(?:[^"\\]|\\.)*"?', re.DOTALL)


def _pieces(text: str) -> list[str]:
    """All pieces of ``text``, in time that grows with its length only: a model wrote it."""
    pieces: list[str] = []
    words: list[str] = []
    fenced: list[str] = []
    fence = ""
    for line in text.splitlines(keepends=True):
        if fence and line.strip() == fence:
            pieces.append("".join(fenced))
            fenced, fence = [], ""
        elif fence:
            fenced.append(line)
        elif opening := _OPENING.fullmatch(line.rstrip()):
            pieces += _bracketed("".join(words))
            words, fence = [], opening[1]
        else:
            words.append(line)
    return pieces + _bracketed("".join([*words, *fenced]))


def _bracketed(words: str) -> list[str]:
    """What stands in brackets, with its brackets; one that is never closed reaches to the end."""
    found, begin, depth, place = [], 0, 0, 0
    while match := (_BRACKET_OR_STRING if depth else _BRACKET).search(words, place):
        place = match.end()
        if match[0] in ("[", "{"):
            begin = begin if depth else match.start()
            depth += 1
        elif match[0] in ("]", "}") and depth:
            depth -= 1
            if not depth:
                found.append(words[begin:place])
    return [*found, words[begin:]] if depth else found


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
