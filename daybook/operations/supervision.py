"""Care for a child: it is begun again when it ends by itself, and ended when the care ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import NoReturn

from daybook.operations.home_lock import Record
from daybook.processes.children import Child

LONGEST = 60.0
"""Seconds: the longest pause before a child is begun again; one that ran that long is sound."""


async def keep(
    child: Child,
    again: Callable[[], Awaitable[Child]],
    record: Record,
    say: Callable[[str], None],
    *,
    pause: float = 1.0,
) -> NoReturn:
    """Keep ``child``, which stands in ``record`` already, running until this task is cancelled.

    When it ends, ``say`` gets a line with the last words of its log, and ``again`` begins the next
    after ``pause`` seconds, doubled each time. A beginning that fails is said and tried again in
    the same way, and so a full disk or a machine without room for a process ends no care.
    Cancelled, it ends the child and is done when all that the child began has ended.
    """
    wait = pause
    try:
        while True:
            began = time.monotonic()
            code = await child.wait()
            _write_down(record.ended, child, say)
            if time.monotonic() - began >= LONGEST:
                wait = pause
            say(
                f"The {child.name} ended with code {code} and is started again in {wait:g} s; "
                f"its log is {child.log}\n{child.tail(5)}".rstrip()
            )
            begun: Child | None = None
            while begun is None:
                await asyncio.sleep(wait)
                wait = min(2 * wait, LONGEST)
                try:
                    begun = await again()
                except Exception as error:
                    say(
                        f"The {child.name} could not be started again: {error}; it is tried again "
                        f"in {wait:g} s"
                    )
            child = begun
            _write_down(record.began, child, say)
    finally:
        await child.terminate()
        _write_down(record.ended, child, say)


def _write_down(what: Callable[[Child], None], child: Child, say: Callable[[str], None]) -> None:
    """Once the file can be written again the next change is written with this one."""
    try:
        what(child)
    except OSError as error:
        say(f"What runs could not be written down: {error}")
