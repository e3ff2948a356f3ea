"""Attempts of the hostile program, and what they use. It imports no Daybook."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

TIMEOUT_SECONDS = 8
MEBIBYTE = 2**20

Attempt = Callable[[], object]
ATTEMPTS: dict[str, tuple[Attempt, str]] = {}
"""Attempts by name, each with its ``control``."""
TARGETS: dict[str, Any] = {}
LIBC = ctypes.CDLL(None, use_errno=True)
INHERITED: list[int] = []
"""Files besides the standard ones that were open at the start."""


def attempt(name: str, control: str = "") -> Callable[[Attempt], Attempt]:
    """Add a function as an attempt, which succeeds if it returns a true value.

    ``control`` says for which user it must succeed without a sandbox, so that it shows something:
    `any`, only `root`, or none ("") if it is harmful then, or needs hardware or luck.
    """

    def add(function: Attempt) -> Attempt:
        assert name not in ATTEMPTS, name
        ATTEMPTS[name] = function, control
        return function

    return add


def checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def call(number: int, *arguments: Any) -> int:
    longs = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    return checked(LIBC.syscall(ctypes.c_long(number), *longs))


def new_name(name: str) -> str:
    """Return a name that no other attempt uses."""
    return f"{name}-{os.getpid()}"


def target(name: str) -> Any:
    return TARGETS[name]


def written(path: str | Path) -> bool:
    """Append to a file; return whether that was possible."""
    with open(path, "ab") as file:
        return file.write(b"x") == 1
