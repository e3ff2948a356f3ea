"""Waiting for what must not be left behind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import anyio

Result = TypeVar("Result")


async def to_its_end(
    task: asyncio.Task[Result], cancelled: Callable[[], object] = lambda: None
) -> Result:
    """What ``task`` returns or raises; it is not reached by the caller's cancellation.

    A cancellation, also a repeated one, calls ``cancelled``, and goes on when the task is done.
    """
    try:
        await asyncio.wait({task})
    except asyncio.CancelledError:
        cancelled()
        with anyio.CancelScope(shield=True):  # a cancel scope asks again at every turn of the loop
            while not task.done():
                with suppress(asyncio.CancelledError):
                    await asyncio.wait({task})
        if not task.cancelled():
            task.exception()
        raise
    return task.result()
