"""Output functions: JSON, lines, fields and tables.

On a terminal, the output has colours, and columns that fit the terminal's width. Other output
consists of plain lines, which are never shortened. Control characters except line feeds and tabs
are printed as escapes, so that a text of an agent or a user cannot control this terminal, or a
terminal that later displays the output.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import time
import unicodedata
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from daybook.errors import InvalidInput

if TYPE_CHECKING:
    from pydantic import BaseModel
    from rich.console import Console

_Result = TypeVar("_Result")

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
"""The colour of each status of a run, delivery, alert or task. Other statuses have no colour."""

ALERT_PREFIX = "! "
"""The prefix of an entry that needs attention."""

PROGRESS_INTERVAL_SECONDS = 5.0
"""Minimum interval between two lines of `progress` if stderr is not a terminal."""

COLUMN_GAP = 2
"""Number of spaces between two columns."""
MIN_COLUMN_WIDTH = 8
"""Minimum width of a truncated column. A column with less room is omitted."""


def write_file(text: str) -> None:
    """Write the content of a file to stdout, in UTF-8 whatever the encoding of stdout is."""
    sys.stdout.flush()
    if (buffer := getattr(sys.stdout, "buffer", None)) is None:
        sys.stdout.write(text)  # a stream of a program that has no encoding
    else:
        buffer.write(text.encode())
        buffer.flush()


WATCH_INTERVAL_SECONDS = 2.0
"""Interval between two updates of a list that the user watches."""


async def show(
    read: Callable[[], Awaitable[_Result]],
    render: Callable[[_Result], object],
    *,
    as_json: bool,
    watch: bool,
) -> _Result:
    """Print the result of ``read``, as JSON or with ``render``. Return the result.

    With ``watch``, read and print again on a cleared screen every `WATCH_INTERVAL_SECONDS`, until
    Ctrl-C. Raise `InvalidInput` if ``watch`` is combined with ``as_json``, or if stdout is not a
    terminal.
    """
    if watch and as_json:
        raise InvalidInput("watch", "cannot be combined with --json", "leave one out")
    if watch and not sys.stdout.isatty():
        raise InvalidInput("watch", "needs a terminal", "leave it out, and repeat the command")
    while True:
        found = await read()
        if watch:
            print(_CLEAR, end="")
        (print_json if as_json else render)(found)
        if not watch:
            return found
        import asyncio

        await asyncio.sleep(WATCH_INTERVAL_SECONDS)


_CLEAR = "\x1b[H\x1b[2J"
"""Escape sequence that moves to the start of the terminal's screen and clears the screen."""


def print_json(value: Any) -> None:
    """Print ``value``, which may contain pydantic models, to stdout as one JSON document."""
    print(_json(value, indent=2))


def print_json_line(value: Any) -> None:
    """Print one line of JSON to stdout, and flush stdout. Use it for streamed output."""
    print(_json(value), flush=True)


def line(text: str = "", style: str = "") -> None:
    """Print text to stdout. If stdout is a terminal, use the rich ``style``."""
    _PROGRESS.clear()
    if not sys.stdout.isatty():
        print(_plain_text(text), flush=True)
        return
    _console().print(_escaped(text), style=style or None, soft_wrap=True)


def say(text: str) -> None:
    """Print a message to stderr, and flush stderr."""
    _PROGRESS.clear()
    shown = _escaped(text) if sys.stderr.isatty() else _escaped(text, _CONTROL)
    print(shown, file=sys.stderr, flush=True)


def progress(text: str) -> None:
    """Show progress on stderr: on a terminal in one line, which the next `say` or `line` clears.

    Otherwise, print a plain line, at most once in `PROGRESS_INTERVAL_SECONDS`.
    """
    _PROGRESS.show(_escaped(text))


class _Progress:
    """State of `progress`: whether its line is on the terminal, and the time of the last line."""

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


def fields(pairs: Sequence[tuple[str, str]]) -> None:
    """Print names and values in two columns. A value may have several lines."""
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
    """Print rows under headers. On a terminal, fit each row to the terminal's width.

    Long cells are wrapped. With ``cut``, long cells are truncated instead, and the last columns are
    omitted if there is no room for them. The columns in ``whole`` are never wrapped, truncated or
    omitted. If the terminal is too narrow even for these columns, the line wraps.
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
        width + COLUMN_GAP for name, width in zip(headers, widths, strict=True) if name in whole
    )
    rich_table = Table(box=None, pad_edge=False, padding=(0, COLUMN_GAP, 0, 0), header_style="bold")
    shown_columns = []
    for number, (name, width) in enumerate(zip(headers, widths, strict=True)):
        if name in whole:
            rich_table.add_column(name, no_wrap=True, min_width=width)
        elif not cut:
            rich_table.add_column(name, overflow="fold")
        elif room >= min(width, max(len(name), MIN_COLUMN_WIDTH)):
            column_width = min(width, room)
            room -= column_width + COLUMN_GAP
            rich_table.add_column(name, no_wrap=True, overflow="ellipsis", width=column_width)
        else:
            continue
        shown_columns.append(number)
    for cells in shown:
        styles = [STYLES.get(cell.removeprefix(ALERT_PREFIX), "") for cell in cells]
        rich_table.add_row(*(Text(cells[n], style=styles[n]) for n in shown_columns))
    console.width -= min(room + COLUMN_GAP, 0)  # make room for the columns in `whole`
    console.print(rich_table, crop=False)


def _json(value: Any, indent: int | None = None) -> str:
    """Return JSON. If stdout cannot encode a character, escape all non-ASCII characters.

    Not even UTF-8 can encode a lone surrogate.
    """
    text = json.dumps(value, ensure_ascii=False, indent=indent, default=_dump_model)
    # json.dumps escapes only the control characters below U+0020.
    text = re.sub("[\x7f-\x9f]", lambda match: f"\\u{ord(match[0]):04x}", text)
    if _encodable(text) == text:
        return text
    return json.dumps(value, indent=indent, default=_dump_model)


def _dump_model(value: BaseModel) -> Any:
    return value.model_dump(mode="json")


def _encodable(text: str) -> str:
    if text.isascii():
        return text
    # The encoding is None if a program has replaced stdout by a StringIO.
    encoding = sys.stdout.encoding or "utf-8"
    return text.encode(encoding, "replace").decode(encoding)


def _console() -> Console:
    from rich.console import Console

    return Console(highlight=False, markup=False, emoji=False)


_CONTROL = ("Cc",)
_INVISIBLE = ("Cc", "Cf", "Cs")
"""Unicode categories of control characters, and of all characters that a terminal hides."""


def _plain_text(text: str) -> str:
    """Return ``text`` for output that is not a terminal.

    Control characters become escapes. Other invisible characters stay.
    """
    return _encodable(_escaped(text, _CONTROL))


def _escaped(text: str, hidden: Collection[str] = _INVISIBLE) -> str:
    """Return ``text`` with the characters of the ``hidden`` Unicode categories as escapes.

    Line feeds and tabs stay.
    """
    if text.isprintable():
        return text
    return "".join(
        letter
        if letter in "\n\t" or unicodedata.category(letter) not in hidden
        else repr(letter)[1:-1]
        for letter in text
    )
