"""Waiting for a task that must finish even if the caller is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

import anyio

Result = TypeVar("Result")


MAX_REPEATS = 2
"""Maximum number of times that `wait_shielded` repeats the work of a task that was cancelled."""


async def wait_shielded(
    task: asyncio.Task[Result],
    cancelled: Callable[[], object] = lambda: None,
    *,
    repeat: Callable[[], Coroutine[Any, Any, Result]] | None = None,
) -> Result:
    """Return or raise the result of ``task``, which is not cancelled with the caller.

    If the caller is cancelled, or a signal handler raises an error, call ``cancelled`` at once, and
    raise the exception when the task is done. Ignore further cancellations until then. If the loop
    shuts down, it cancels ``task`` too; in this case, ``repeat`` (if given) does the work again.
    """
    try:
        await asyncio.wait({task})
    except BaseException:
        cancelled()
        with anyio.CancelScope(shield=True):  # an outer cancel scope cancels repeatedly
            await _wait_until_done(task)
            for _ in range(MAX_REPEATS):
                if repeat is None or not task.cancelled():
                    break
                task = asyncio.create_task(repeat())
                await _wait_until_done(task)
        if not task.cancelled():
            task.exception()
        raise
    return task.result()


async def _wait_until_done(task: asyncio.Task[Result]) -> None:
    while not task.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait({task})
