"""What is printed: JSON, lines and tables.

A terminal gets colours and columns that fit it; anything else gets plain lines, which nothing
shortens. What an agent or a user wrote cannot drive the terminal: control characters are shown as
escapes there.
"""

from __future__ import annotations

import json
import sys
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

STYLES = {
    "succeeded": "green",
    "skipped": "cyan",
    "missed": "yellow",
    "unknown": "yellow",
    "failed": "red",
    "timed_out": "red",
    "cancelled": "magenta",
}
"""The colour of each way in which a run ends."""


def data(value: Any) -> None:
    """One JSON document."""
    print(_json(value, indent=2))


def record(value: Any) -> None:
    """One line of JSON, at once: for what comes bit by bit."""
    print(_json(value), flush=True)


def line(text: str = "", style: str = "") -> None:
    """One piece of text on stdout, in a rich style when it is a terminal."""
    if not sys.stdout.isatty():
        print(_sayable(text), flush=True)
        return
    _console().print(_harmless(text), style=style or None, soft_wrap=True)


def say(text: str) -> None:
    """Talk: on stderr, at once."""
    print(_harmless(text) if sys.stderr.isatty() else text, file=sys.stderr, flush=True)


def facts(pairs: Sequence[tuple[str, str]]) -> None:
    """Names and values below each other; a value of several lines stays in its column."""
    width = max((len(name) for name, _ in pairs), default=0)
    for name, value in pairs:
        first, *rest = value.split("\n")
        line(f"  {name:<{width}}  {first}".rstrip())
        for more in rest:
            line(f"  {'':<{width}}  {more}".rstrip())


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Rows under headers; on a terminal long cells are folded so that a row fits its width."""
    if sys.stdout.isatty():
        from rich.table import Table
        from rich.text import Text

        drawn = Table(box=None, pad_edge=False, header_style="bold")
        for header in headers:
            drawn.add_column(header, overflow="fold")
        for row in rows:
            drawn.add_row(*(Text(_harmless(cell), style=STYLES.get(cell, "")) for cell in row))
        _console().print(drawn)
        return
    widths = [max(map(len, column)) for column in zip(headers, *rows, strict=True)]
    for row in (headers, *rows):
        cells = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        print(_sayable("  ".join(cells).rstrip()))


def _json(value: Any, indent: int | None = None) -> str:
    """JSON, escaped where stdout's encoding (or UTF-8, for half a surrogate pair) needs it."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    return text if _sayable(text) == text else json.dumps(value, indent=indent)


def _sayable(text: str) -> str:
    encoding = sys.stdout.encoding
    return text.encode(encoding, "replace").decode(encoding)


def _console() -> Console:
    from rich.console import Console

    return Console(highlight=False, markup=False, emoji=False)


def _harmless(text: str) -> str:
    return "".join(
        letter
        if letter in "\n\t" or unicodedata.category(letter) not in ("Cc", "Cf", "Cs")
        else repr(letter)[1:-1]
        for letter in text
    )
