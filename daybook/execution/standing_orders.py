"""The standing orders of a heartbeat: the operator's words, in a file of the operator's."""

from __future__ import annotations

from pathlib import Path

from daybook import home
from daybook.errors import InvalidInput

LONGEST = 100_000
"""Characters that the file may have: all of it goes to a model, twice."""


def place(file: str) -> Path:
    """Where the file of that name is: a relative one in the home. Raises `InvalidInput`."""
    try:
        return home.here().path / Path(file).expanduser()
    except RuntimeError as error:
        raise InvalidInput("file", f"{file} is nowhere: {error}") from None


def read(file: str) -> str:
    """What it says; blank where it says nothing. Raises `InvalidInput`, and FileNotFoundError."""
    there = place(file)
    try:
        if there.exists() and not there.is_file():  # a pipe would be waited for
            raise InvalidInput("file", f"{there} is no file")
        with there.open(encoding="utf-8", errors="replace") as opened:
            text = opened.read(LONGEST + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InvalidInput("file", f"{there} cannot be read: {error.strerror}") from None
    if len(text) > LONGEST:
        raise InvalidInput("file", f"{there} is too long", f"legal: at most {LONGEST:,} characters")
    return text.strip()
