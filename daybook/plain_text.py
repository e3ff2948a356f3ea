"""Reader of text that people wrote: files, and standard input.

Text is UTF-8. A byte-order mark at its beginning is no part of the text: editors and shells of
Windows write it. Every input of a person is read with this module or, if it is JSON, with
`json_text`.
"""

from __future__ import annotations

import sys
from pathlib import Path

MARK = "\ufeff"
"""The byte-order mark, as a character."""
ENCODING = "utf-8-sig"
"""The encoding for `open`: UTF-8 with or without a byte-order mark."""


def decode(content: bytes) -> str:
    """Return the text of ``content``. Raise `UnicodeDecodeError` with the part after the mark."""
    return content.removeprefix(MARK.encode()).decode()


def read(file: Path) -> str:
    """Return the text of a file, with ``\\n`` as line breaks.

    Raise `OSError`, or `UnicodeDecodeError` for a file that is not UTF-8.
    """
    return file.read_text(encoding=ENCODING)


def read_input(*, line: bool = False) -> str:
    """Return the text of standard input, or its first line. Raise `UnicodeDecodeError`."""
    return (sys.stdin.readline() if line else sys.stdin.read()).removeprefix(MARK)
