"""Care for a child: it is begun again when it ends by itself, and ended when the care ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import NoReturn

from daybook.host.children import Child
from daybook.host.record import Record

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
    after ``pause`` seconds, doubled each time. Cancelled, it ends the child and is done when all
    that the child began has ended.
    """
    wait = pause
    try:
        while True:
            began = time.monotonic()
            code = await child.wait()
            record.ended(child)
            if time.monotonic() - began >= LONGEST:
                wait = pause
            say(
                f"The {child.name} ended with code {code} and is started again in {wait:g} s; "
                f"its log is {child.log}\n{child.tail(5)}".rstrip()
            )
            await asyncio.sleep(wait)
            wait = min(2 * wait, LONGEST)
            child = await again()
            record.began(child)
    finally:
        await child.terminate()
        record.ended(child)
