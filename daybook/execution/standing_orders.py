"""Standing orders of a heartbeat: a text file that the operator writes."""

from __future__ import annotations

from pathlib import Path

from daybook import home
from daybook.errors import InvalidInput

MAX_CHARACTERS = 100_000
"""The most characters of the file: all of it goes to a model, twice."""


def path_of(file: str) -> Path:
    """Return the file's path; a relative name is one in the home. Raise `InvalidInput`."""
    try:
        return home.current_home().path / Path(file).expanduser()
    except RuntimeError as error:
        raise InvalidInput("file", f"{file} is nowhere: {error}") from None


def read(file: str) -> str:
    """Return the stripped text of the file. Raise `InvalidInput` and FileNotFoundError."""
    path = path_of(file)
    try:
        if path.exists() and not path.is_file():  # opening a pipe would block
            raise InvalidInput("file", f"{path} is no file")
        with path.open(encoding="utf-8", errors="replace") as stream:
            text = stream.read(MAX_CHARACTERS + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InvalidInput("file", f"{path} cannot be read: {error.strerror}") from None
    if len(text) > MAX_CHARACTERS:
        raise InvalidInput(
            "file", f"{path} is too long", f"legal: at most {MAX_CHARACTERS:,} characters"
        )
    return text.strip()
