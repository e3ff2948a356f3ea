"""What is printed: JSON, lines and tables.

A terminal gets colours and columns that fit it; anything else gets plain lines, which nothing
shortens. What an agent or a user wrote cannot drive a terminal, neither this one nor the one on
which a file or a pipe is read later: control characters are shown as escapes.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import time
import unicodedata
from collections.abc import Collection, Sequence
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
    "delivered": "green",
    "pending": "yellow",
    "paused": "red",
    "overdue": "red",
    "undelivered": "red",
    "completed": "green",
    "claimed": "cyan",
    "needs_attention": "red",
}
"""The colour of each way in which a run ends, or what is told of it."""

ALERT = "! "
"""Stands before what somebody has to look at."""

PROGRESS_INTERVAL_SECONDS = 5.0
"""How often `progress` says something to what is not a terminal."""

GAP = 2
"""Blanks between two columns."""
LEAST = 8
"""A cell that is cut to fewer letters than this says nothing."""


def data(value: Any) -> None:
    """One JSON document."""
    print(_json(value, indent=2))


def record(value: Any) -> None:
    """One line of JSON, at once: for what comes bit by bit."""
    print(_json(value), flush=True)


def line(text: str = "", style: str = "") -> None:
    """One piece of text on stdout, in a rich style when it is a terminal."""
    _PROGRESS.clear()
    if not sys.stdout.isatty():
        print(_plain_text(text), flush=True)
        return
    _console().print(_escaped(text), style=style or None, soft_wrap=True)


def say(text: str) -> None:
    """Talk: on stderr, at once."""
    _PROGRESS.clear()
    shown = _escaped(text) if sys.stderr.isatty() else _escaped(text, _CONTROL)
    print(shown, file=sys.stderr, flush=True)


def progress(text: str) -> None:
    """Show how far something is, on stderr: one line that each call rewrites on a terminal.

    The next `say` or `line` takes its place. Anything else gets a plain line every
    `PROGRESS_INTERVAL_SECONDS` at most.
    """
    _PROGRESS.show(_escaped(text))


class _Progress:
    """The state of `progress`: whether its line is on the terminal, and when it was last shown."""

    def __init__(self) -> None:
        self._is_shown = False
        self._at = -PROGRESS_INTERVAL_SECONDS

    def show(self, text: str) -> None:
        if sys.stderr.isatty():
            width = shutil.get_terminal_size().columns - 1
            print(f"{_REWRITE}{text[:width]}", end="", file=sys.stderr, flush=True)
            self._is_shown = True
        elif time.monotonic() - self._at >= PROGRESS_INTERVAL_SECONDS:
            self._at = time.monotonic()
            print(text, file=sys.stderr, flush=True)

    def clear(self) -> None:
        if self._is_shown:
            self._is_shown = False
            print(_REWRITE, end="", file=sys.stderr, flush=True)


_REWRITE = "\r\x1b[K"
_PROGRESS = _Progress()


def facts(pairs: Sequence[tuple[str, str]]) -> None:
    """Names and values below each other; a value of several lines stays in its column."""
    width = max((len(name) for name, _ in pairs), default=0)
    for name, value in pairs:
        first, *rest = value.split("\n")
        line(f"  {name:<{width}}  {first}".rstrip())
        for more in rest:
            line(f"  {'':<{width}}  {more}".rstrip())


def table(
    headers: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    whole: Collection[str] = (),
    cut: bool = False,
) -> None:
    """Rows under headers; on a terminal a row fits its width.

    What does not fit is folded; with ``cut`` it is cut, and the last columns are left out where
    there is no room for them at all. The columns in ``whole`` are never folded, cut or left out: a
    terminal too narrow for those alone breaks the line.
    """
    if sys.stdout.isatty():
        _print_rich_table(headers, rows, whole, cut)
        return
    plain = [[_plain_text(cell) for cell in row] for row in (headers, *rows)]
    widths = [max(map(len, column)) for column in zip(*plain, strict=True)]
    for row in plain:
        cells = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())


def _print_rich_table(
    headers: Sequence[str], rows: Sequence[Sequence[str]], whole: Collection[str], cut: bool
) -> None:
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    shown = [[_escaped(cell) for cell in row] for row in rows]
    widths = [max(map(cell_len, column)) for column in zip(headers, *shown, strict=True)]
    console = _console()
    room = console.width - sum(
        width + GAP for name, width in zip(headers, widths, strict=True) if name in whole
    )
    rich_table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
    shown_columns = []
    for number, (name, width) in enumerate(zip(headers, widths, strict=True)):
        if name in whole:
            rich_table.add_column(name, no_wrap=True, min_width=width)
        elif not cut:
            rich_table.add_column(name, overflow="fold")
        elif room >= min(width, max(len(name), LEAST)):
            column_width = min(width, room)
            room -= column_width + GAP
            rich_table.add_column(name, no_wrap=True, overflow="ellipsis", width=column_width)
        else:
            continue
        shown_columns.append(number)
    for cells in shown:
        rich_table.add_row(*(Text(cells[n], style=_style(cells[n])) for n in shown_columns))
    console.width -= min(room + GAP, 0)  # wide enough for what is never cut
    console.print(rich_table, crop=False)


def _style(cell: str) -> str:
    return STYLES.get(cell.removeprefix(ALERT), "")


def _json(value: Any, indent: int | None = None) -> str:
    """JSON, escaped where stdout's encoding (or UTF-8, for half a surrogate pair) needs it."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    # JSON escapes the control characters below U+0020 itself.
    text = re.sub("[\x7f-\x9f]", lambda match: f"\\u{ord(match[0]):04x}", text)
    return text if _encodable(text) == text else json.dumps(value, indent=indent)


def _encodable(text: str) -> str:
    encoding = sys.stdout.encoding
    return text.encode(encoding, "replace").decode(encoding)


def _console() -> Console:
    from rich.console import Console

    return Console(highlight=False, markup=False, emoji=False)


_CONTROL = ("Cc",)
_INVISIBLE = ("Cc", "Cf", "Cs")
"""Unicode categories: control characters, and with those what is invisible on a terminal."""


def _plain_text(text: str) -> str:
    """Return ``text`` for what is not a terminal: text that only looks empty stays as it is."""
    return _encodable(_escaped(text, _CONTROL))


def _escaped(text: str, hidden: Collection[str] = _INVISIBLE) -> str:
    """Return ``text`` with the letters of these Unicode categories shown as escapes."""
    return "".join(
        letter
        if letter in "\n\t" or unicodedata.category(letter) not in hidden
        else repr(letter)[1:-1]
        for letter in text
    )
