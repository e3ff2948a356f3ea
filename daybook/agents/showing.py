"""Repeated showing of a text that grows, such as an answer while an agent writes it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")

INTERVAL_SECONDS = 1.0
"""Minimum time between two texts that are shown. A text that is complete sooner is not shown."""

LONG_CHARACTERS = 8_000
"""Length of a text above which the interval is twice as long, because each write stores it all."""


@asynccontextmanager
async def showing(
    read: Callable[[], tuple[T, str] | None], show: Callable[[T, str], Awaitable[None]]
) -> AsyncIterator[None]:
    """While the block runs, pass each new result of ``read`` to ``show``, once per interval.

    The result is an object and its text; None if there is no text. The block does not wait for
    ``show``, except at its end. The first error ends the showing, not the block, and is logged.
    """

    async def repeat() -> None:
        shown = read()
        while True:
            is_long = shown is not None and len(shown[1]) > LONG_CHARACTERS
            await asyncio.sleep(INTERVAL_SECONDS * (2 if is_long else 1))
            if (now := read()) != shown and now is not None:
                shown = now
                await show(*now)

    async def repeat_safely() -> None:
        try:
            await repeat()
        except Exception as error:
            log.warning(  # without the error's text, which may contain the shown one
                "the text of an answer is no longer shown while it arrives: %s",
                type(error).__name__,
                extra={"action": "answer_not_shown"},
            )

    task = asyncio.create_task(repeat_safely())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})
