"""Waiting for a condition that no event announces."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta

from daybook.clock import SYSTEM_CLOCK


async def becomes_true(condition: Callable[[], Awaitable[object]], within: float) -> bool:
    """Return whether ``condition`` becomes true within that many seconds."""
    with suppress(TimeoutError):
        async with asyncio.timeout(within):
            while not await condition():
                await SYSTEM_CLOCK.wait_until(SYSTEM_CLOCK.now() + timedelta(seconds=0.05))
            return True
    return False
