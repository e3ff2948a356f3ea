"""Ends of tasks that were cancelled, or that must finish although their caller was."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

import anyio

log = logging.getLogger(__name__)

Result = TypeVar("Result")

MAX_REPEATS = 2
"""Maximum number of times that `wait_shielded` repeats the work of a task that was cancelled."""
CANCEL_SECONDS = 5.0
"""How long `cancel_all` waits."""


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


async def cancel_all(*tasks: asyncio.Task[Any] | None) -> None:
    """Cancel the tasks and wait until they have ended, but not longer than `CANCEL_SECONDS`.

    A task that is only cancelled still uses its connections while its caller closes them. A task
    with a connection that does not answer may not end. A task that was cancelled before gets half
    of that time to close its connection before it is cancelled again. Ignore tasks that have ended.
    """
    given = {each for each in tasks if each is not None and not each.done()}
    if not given:
        return
    closing = {each for each in given if each.cancelling()}
    for each in given - closing:
        each.cancel()
    done, others = await asyncio.wait(given, timeout=CANCEL_SECONDS / 2)
    for each in others & closing:
        each.cancel()  # it may have been a timeout of its own, after which it continues
    if others:
        ended, others = await asyncio.wait(others, timeout=CANCEL_SECONDS / 2)
        done |= ended
    for each in done:
        if not each.cancelled() and (error := each.exception()) is not None:
            log.error("%s ended with an error: %r", each.get_name(), error, exc_info=error)
    for each in others:
        log.warning("%s does not end: %r", each.get_name(), each.get_coro())


async def _wait_until_done(task: asyncio.Task[Result]) -> None:
    while not task.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait({task})
