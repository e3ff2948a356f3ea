"""Patterns of a model: globs for paths, and texts or regular expressions for lines.

No pattern can take long: a glob is compared in the product of the two lengths, and a search with a
regular expression ends with the time of its call. `regex` unrolls a repeated part, so the product
of all repetitions in an expression is limited.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import prod
from string import ascii_letters, digits
from typing import Any

import regex  # type: ignore[import-untyped]

from daybook.errors import InvalidInput
from daybook.features.work_tools.folders import Coverage

MAX_PATTERN_CHARACTERS = 500
_FLAGS = ascii_letters + digits + "-"
MAX_REPETITIONS = 10_000
MAX_COST = 200_000
"""Maximum product of a pattern's length and its repetitions: a compiled pattern unrolls them."""


@dataclass(frozen=True)
class Glob:
    """Pattern of a path relative to the folder of a search: `*.py`, `src/**/test_*.py`.

    A pattern without `/` fits the names of files in any folder. `**` stands for any folders.
    """

    parts: tuple[str, ...]

    @classmethod
    def parse(cls, field: str, text: str) -> Glob:
        """Return the pattern. Raise `InvalidInput` for one that cannot match."""
        _check_length(field, text)
        parts = tuple(each for each in text.split("/") if each not in ("", "."))
        if text.startswith("/") or ".." in parts or not parts:
            hint = "write it relative to the folder, such as src/**/*.py"
            raise InvalidInput(field, "is no pattern of paths in the folder", hint)
        return cls(parts if len(parts) > 1 else ("**", *parts))

    def matches(self, names: Sequence[str]) -> bool:
        # `ends` has the numbers of names that the pattern's parts so far can stand for.
        ends = {0}
        for part in self.parts:
            if part == "**":
                ends = set(range(min(ends), len(names) + 1))
            else:
                ends = {
                    each + 1
                    for each in ends
                    if each < len(names) and fnmatchcase(names[each], part)
                }
            if not ends:
                return False
        return len(names) in ends


@dataclass(frozen=True)
class Searched:
    """A text or a regular expression that a search looks for."""

    expression: Any

    @classmethod
    def compile(cls, text: str, *, is_regex: bool, ignore_case: bool) -> Searched:
        """Return the expression. Raise `InvalidInput` if it is not valid or too costly."""
        _check_length("pattern", text)
        if is_regex and _is_verbose(text):
            # With this flag, blanks and comments may hide the numbers of repetitions.
            raise InvalidInput("pattern", "sets the flag x", "leave it out")
        repetitions = _repetitions(text) if is_regex else 1
        if repetitions > MAX_REPETITIONS or repetitions * len(text) > MAX_COST:
            most = min(MAX_REPETITIONS, MAX_COST // len(text))
            hint = f"the product of all numbers in braces may be {most:,} here"
            raise InvalidInput("pattern", "repeats too much", hint)
        try:
            flags = regex.IGNORECASE if ignore_case else 0
            return cls(regex.compile(text if is_regex else regex.escape(text), flags))
        except (regex.error, ValueError, OverflowError, RecursionError) as error:
            raise InvalidInput("pattern", f"is no regular expression: {error}") from None

    def matches(self, line: str, coverage: Coverage) -> bool:
        """Return whether the line contains a match. The search is over if its time ends."""
        left = coverage.deadline - time.monotonic()
        try:
            # `concurrent` lets other threads go on meanwhile.
            found = self.expression.search(line, concurrent=True, timeout=max(left, 0.001))
        except (TimeoutError, MemoryError):
            coverage.is_out_of_time = True
            return False
        return found is not None


def _repetitions(text: str) -> int:
    """Return the product of the numbers of repetitions: 12 for `(a{2,3}b){4}`."""
    counts = list[int]()
    for each in text.split("{")[1:]:
        numbers = [int(n) for n in each.split("}")[0].split(",") if n.strip().isdecimal()]
        counts.append(max(numbers, default=1))
    return prod(max(each, 1) for each in counts)


def _is_verbose(text: str) -> bool:
    """Return whether the expression may set the flag `x`, as in `(?x)` or `(?i-s:…)`."""
    groups = text.split("(?")[1:]
    return any("x" in each[: len(each) - len(each.lstrip(_FLAGS))] for each in groups)


def _check_length(field: str, text: str) -> None:
    if not text or len(text) > MAX_PATTERN_CHARACTERS:
        hint = f"use 1 to {MAX_PATTERN_CHARACTERS:,} characters"
        raise InvalidInput(field, f"has {len(text):,} characters", hint)
