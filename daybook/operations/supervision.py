"""Supervision of a child: restarts it when it ends by itself, ends it when the supervision ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import NoReturn

from daybook.operations.home_lock import UpRecord
from daybook.processes.children import Child

MAX_RESTART_DELAY_SECONDS = 60.0
"""The longest delay before a restart; a child that ran as long resets the delay."""


async def supervise(
    child: Child,
    again: Callable[[], Awaitable[Child]],
    record: UpRecord,
    say: Callable[[str], None],
    *,
    pause: float = 1.0,
) -> NoReturn:
    """Keep ``child``, which ``record`` already has, running until this task is cancelled.

    When the child ends, ``say`` gets a line with the end of its log, and ``again`` starts the next
    one after ``pause`` seconds, doubled each time. A start that fails is reported and tried again
    in the same way, so a full disk or a machine without room for a process does not end the
    supervision. When cancelled, end the child and return after all processes that it started have
    ended.
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
                f"The {child.name} exited with code {code}; restarting it in {wait:g} s; its log "
                f"is {child.log}\n{child.tail(5)}".rstrip()
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


def _record_change(
    change: Callable[[Child], None], child: Child, say: Callable[[str], None]
) -> None:
    """Apply ``change`` to the record; if that fails, the next change writes it too."""
    try:
        change(child)
    except OSError as error:
        say(f"Could not record the running processes: {error}")
