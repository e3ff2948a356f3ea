"""The text of HTML from strangers, such as a page or a mail, as Markdown.

`convert_html` converts it in a process of its own, because hostile HTML may exceed any memory and
time. What a reader cannot see is left out.
"""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TypedDict

from daybook.agents import process
from daybook.errors import DaybookError
from daybook.execution import convert_html

MAX_BASE_CHARACTERS = 2_000
CONVERSION_SECONDS = 20.0
"""How long a conversion may take, on a busy machine."""


class UnreadablePage(DaybookError):
    """The error that a page has no text."""

    code = "unreadable_page"


class Converted(TypedDict):
    """The parts of a page, as `convert_html` prints them."""

    text: str
    title: str
    meta: dict[str, str]
    links: list[tuple[str, str]]
    is_cut: bool


async def convert(html: str, base: str) -> Converted:
    """Return the parts of a page at the address ``base``.

    Raise `UnreadablePage` if the conversion exceeds its limits.
    """
    packages = find_spec("html_to_markdown")
    assert packages is not None
    assert packages.origin is not None
    program = [sys.executable, "-I", "-S", convert_html.__file__]
    done = await process.run(
        [*program, str(Path(packages.origin).parents[1]), base[:MAX_BASE_CHARACTERS]],
        folder="/",
        environment={},
        stdin=html.encode(errors="replace"),
        seconds=CONVERSION_SECONDS,
        grace_seconds=0.0,
    )
    try:
        found: Converted = json.loads(done.output)
    except ValueError:  # the system has ended the program, or its input is binary
        why = "its HTML is no text, or needs too much time or memory; read another one"
        raise UnreadablePage(why) from None
    return found
