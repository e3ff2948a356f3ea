"""Supervision of a child: restart it if it ends by itself, and end it when cancelled."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import NoReturn

from daybook.operations.home_lock import UpRecord
from daybook.processes import group
from daybook.processes.children import Child

MAX_RESTART_DELAY_SECONDS = 60.0
"""Maximum delay before a restart; a child that has run for this long resets the delay."""


async def supervise(
    child: Child,
    again: Callable[[], Awaitable[Child]],
    record: UpRecord,
    say: Callable[[str], None],
    *,
    pause: float = 1.0,
) -> NoReturn:
    """Keep ``child``, which is already in ``record``, running until this task is cancelled.

    When the child ends, ``say`` gets a message with the end of its log, and ``again`` starts the
    next one after ``pause`` seconds, doubled each time up to `MAX_RESTART_DELAY_SECONDS`. A start
    that fails is reported and tried again in the same way, so a full disk or a full process table
    does not end the supervision. When cancelled, end the child if it is running, and wait until all
    processes that it started have ended.
    """
    wait = pause
    try:
        while True:
            started = time.monotonic()
            code = await child.wait()
            _record_change(record.remove_child, child, say)
            if time.monotonic() - started >= MAX_RESTART_DELAY_SECONDS:
                wait = pause
            say(
                f"The {child.name} {group.describe_exit(code)}; restarting it in {wait:g} s; its "
                f"log is {child.log}\n{child.tail(5)}".rstrip()
            )
            restarted: Child | None = None
            while restarted is None:
                await asyncio.sleep(wait)
                wait = min(2 * wait, MAX_RESTART_DELAY_SECONDS)
                try:
                    restarted = await again()
                except Exception as error:
                    say(f"Could not restart the {child.name}: {error}; retrying in {wait:g} s")
            child = restarted
            _record_change(record.add_child, child, say)
    finally:
        await child.terminate()
        _record_change(record.remove_child, child, say)


async def record_or_end(record: UpRecord, child: Child) -> None:
    """Record a started child; if that fails, end the child and raise the error."""
    try:
        record.add_child(child)
    except BaseException:
        await child.terminate()
        raise


def _record_change(
    change: Callable[[Child], None], child: Child, say: Callable[[str], None]
) -> None:
    """Apply ``change`` to the record; if that fails, the next change writes it too."""
    try:
        change(child)
    except OSError as error:
        say(f"Could not record the running processes: {error}")
