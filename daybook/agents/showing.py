"""Repeated showing of a text that grows, such as an answer while an agent writes it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

T = TypeVar("T")

INTERVAL_SECONDS = 1.0
"""Minimum time between two texts that are shown. A text that is complete sooner is not shown."""


@asynccontextmanager
async def showing(
    read: Callable[[], T], show: Callable[[T], Awaitable[None]]
) -> AsyncIterator[None]:
    """While the block runs, pass each new result of ``read`` to ``show``, once per interval.

    The block does not wait for ``show``, except at its end.
    """

    async def repeat() -> None:
        shown = read()
        while True:
            await asyncio.sleep(INTERVAL_SECONDS)
            if (now := read()) != shown:
                shown = now
                await show(now)

    task = asyncio.create_task(repeat())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})
