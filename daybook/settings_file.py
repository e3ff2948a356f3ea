"""The file `config.toml` of a home: its values, or an error that names the file and the problem."""

from __future__ import annotations

import tomllib
from collections.abc import Collection
from pathlib import Path
from typing import Any

from daybook import plain_text
from daybook.errors import InvalidInput


def read(file: Path, known: Collection[str], *, strict: bool) -> dict[str, Any]:
    """Return the values of the ``known`` keys in the file; empty if there is no file.

    Raise `InvalidInput` for an unreadable file, for invalid TOML, and, if ``strict``, for an
    unknown key.
    """
    try:
        values = tomllib.loads(plain_text.read(file))
    except FileNotFoundError:
        return {}
    except NotADirectoryError:  # the home is a file: `daybook doctor` reports it
        return {}
    except OSError as error:
        raise InvalidInput(str(file), f"cannot be read: {error.strerror}") from error
    except ValueError as error:
        hint = 'write lines such as timezone = "UTC"'
        raise InvalidInput(str(file), f"is not valid TOML: {error}", hint) from error
    unknown = [key for key in values if key not in known]
    if unknown and strict:
        names = ", ".join(sorted(known))
        raise InvalidInput(str(file), f"unknown settings: {', '.join(unknown)}", f"known: {names}")
    return {key: value for key, value in values.items() if key in known}
