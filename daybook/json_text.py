"""Parser of JSON from outside: payloads of hooks, answers of agents, options, imported files.

Python's parser accepts more than JSON: ``NaN``, ``Infinity``, and numbers such as ``1e999``, which
become infinite. This parser refuses such values, because the ledger cannot store them. If an object
has a name twice, the last value counts, as in a browser.

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

from daybook import plain_text

JsonObject = dict[str, Any]
"""A JSON object. Another program, a user or a model chooses its keys, or its model lists them."""

MAX_DEPTH = 100
"""Maximum nesting of lists and objects. Any program can then serialize the value."""


class TooDeep(ValueError):
    """The lists and objects of a JSON text are nested too deeply."""

    def __init__(self, levels: int) -> None:
        super().__init__(f"lists and objects are nested more than {levels} levels deep")


def read(text: str | bytes, levels: int = MAX_DEPTH) -> Any:
    """Return the JSON value of ``text``. Bytes are UTF-8. A byte-order mark is ignored.

    Raise a ValueError with the reason if ``text`` is not JSON, or if its value cannot be stored. It
    is a `TooDeep` if lists and objects are nested more than ``levels`` deep.
    """
    text = plain_text.decode(text) if isinstance(text, bytes) else text
    try:
        value = json.loads(
            text.removeprefix(plain_text.MARK),
            parse_constant=_refuse_constant,
            parse_float=_finite_float,
        )
    except RecursionError:
        raise TooDeep(levels) from None
    if _has_depth(value, levels + 1):
        raise TooDeep(levels)
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


def _refuse_constant(word: str) -> None:
    raise ValueError(f"{word} is not JSON")


def _finite_float(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"the number {digits[:40]} is too large")
    return number


def _has_depth(value: Any, depth: int) -> bool:
    """Return whether the value has at least ``depth`` levels of nested lists and objects."""
    level = [value]
    for _ in range(depth):
        level = [each for each in level if isinstance(each, dict | list)]
        if not level:
            return False
        level = [
            inner for each in level for inner in (each.values() if isinstance(each, dict) else each)
        ]
    return True
