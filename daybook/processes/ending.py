"""Waiting for a task that must finish even if the caller is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import anyio

Result = TypeVar("Result")


async def wait_shielded(
    task: asyncio.Task[Result], cancelled: Callable[[], object] = lambda: None
) -> Result:
    """Return or raise the result of ``task``, which the caller's cancellation does not reach.

    A cancellation calls ``cancelled``, and is raised when the task is done; further cancellations
    until then are ignored.
    """
    try:
        await asyncio.wait({task})
    except asyncio.CancelledError:
        cancelled()
        with anyio.CancelScope(shield=True):  # a cancel scope repeats its cancellation
            while not task.done():
                with suppress(asyncio.CancelledError):
                    await asyncio.wait({task})
        if not task.cancelled():
            task.exception()
        raise
    return task.result()
