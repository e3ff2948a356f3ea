"""Change of the setting `ledger_url` in a settings file."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

from daybook import plain_text
from daybook.errors import InvalidInput
from daybook.home import replace_private_file


def set_ledger_url(file: Path, url: str) -> None:
    """Write the setting `ledger_url` to a settings file, completely or not at all.

    Raise the errors of `with_ledger_url`.
    """
    replace_private_file(file, with_ledger_url(file, url))


def with_ledger_url(file: Path, url: str) -> str:
    """Return the text of a settings file with another `ledger_url`; "" removes the setting.

    All other lines stay. If the form of the file does not allow this change, raise `InvalidInput`.
    The error does not contain the address, which may have a password.
    """
    try:
        before = plain_text.read(file)
    except FileNotFoundError:
        before = ""
    lines = before.splitlines(keepends=True)
    text = "".join(line for line in lines if line.partition("=")[0].strip() != "ledger_url")
    if url:
        text = f"ledger_url = {json.dumps(url)}\n{text}"
    try:
        expected = {**tomllib.loads(before), "ledger_url": url}
        is_right = {"ledger_url": "", **tomllib.loads(text)} == expected
    except tomllib.TOMLDecodeError:
        is_right = False
    if not is_right:
        hint = 'write it on one line of its own: ledger_url = "ADDRESS"'
        raise InvalidInput(str(file), "the setting ledger_url cannot be changed", hint)
    return text
