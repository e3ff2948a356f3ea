"""Supervision of a child of `up`.

The supervision restarts a child that ends by itself, does not answer (`operations.liveness`) or
uses too much memory. If the supervision is cancelled, it ends the child.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import NoReturn

from daybook.clock import SYSTEM_CLOCK
from daybook.operations import liveness
from daybook.operations.home_lock import UpRecord
from daybook.processes import children, group, proc
from daybook.processes.children import Child

MAX_RESTART_DELAY_SECONDS = 60.0
"""Maximum delay before a restart.

If a child has run for this long, the next delay is short again.
"""
MEMORY_CHECK_INTERVAL_SECONDS = 10.0
SILENT_GRACE_SECONDS = 5.0
"""Time from SIGTERM to SIGKILL of a child that does not answer."""


@dataclass(frozen=True, kw_only=True)
class Watch:
    """Conditions that a running child must meet.

    ``probe`` returns whether the child answers (`liveness`); None for no probe. ``max_memory`` is
    the child's maximum resident memory in bytes; 0 for no maximum.
    """

    probe: liveness.Probe | None = None
    max_memory: int = 0


async def supervise(
    child: Child,
    again: Callable[[], Awaitable[Child]],
    record: UpRecord,
    say: Callable[[str], None],
    *,
    watch: Watch | None = None,
    pause: float = 1.0,
) -> NoReturn:
    """Keep ``child``, which is already in ``record``, running until this task is cancelled.

    When the child ends, call ``say`` with a message and the end of the child's log. After ``pause``
    seconds, call ``again``, which starts the next child. The pause doubles each time, up to
    `MAX_RESTART_DELAY_SECONDS`. If a start fails, report the error and try again after the next
    pause, so that a full disk or a full process table does not end the supervision. End a running
    child that does not meet ``watch``.

    When cancelled, end the child and all processes that it started, and wait until they have ended.
    """
    wait = pause
    try:
        while True:
            started = time.monotonic()
            why = await _until_ended(child, watch or Watch(), say)
            _record_change(record.remove_child, child, say)
            record.add_restart(child.name, SYSTEM_CLOCK.now(), why)
            if time.monotonic() - started >= MAX_RESTART_DELAY_SECONDS:
                wait = pause
            say(
                f"The {child.name} {why}; restarting it in {wait:g} s; its "
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


async def _until_ended(child: Child, watch: Watch, say: Callable[[str], None]) -> str:
    """Wait until the child has ended, and end it if it does not meet ``watch``.

    Return the reason as a predicate, such as "exited with code 1".
    """
    ended = asyncio.create_task(child.wait())
    # The values are seconds from SIGTERM to SIGKILL; None is the child's own time.
    waits: dict[asyncio.Task[str], float | None] = {}
    if watch.probe is not None:
        waits[asyncio.create_task(_silence(child, watch.probe))] = SILENT_GRACE_SECONDS
    if watch.max_memory:
        waits[asyncio.create_task(_excess(child, watch.max_memory))] = None
    try:
        await asyncio.wait({ended, *waits}, return_when=asyncio.FIRST_COMPLETED)
        if ended.done():
            return _describe_end(ended.result())
        failed, grace = next((task, grace) for task, grace in waits.items() if task.done())
        say(f"The {child.name} {failed.result()}; ending it")
        await child.terminate(grace)
        return failed.result()
    finally:
        for task in (ended, *waits):
            task.cancel()
        await asyncio.wait({ended, *waits})


def _describe_end(code: int) -> str:
    if code == children.EXIT_TOO_MUCH_MEMORY:
        return "stopped, because it used more memory than DAYBOOK_MAX_PROCESS_MEMORY allows"
    return group.describe_exit(code)


async def _silence(child: Child, probe: liveness.Probe) -> str:
    seconds = await liveness.wait_until_silent(child, probe)
    return f"did not answer for {seconds:.0f} s"


async def _excess(child: Child, max_bytes: int) -> str:
    while True:
        used = proc.memory(child.pid)
        if used > max_bytes:
            mb = f"{used / 10**6:,.0f} MB"
            return f"used {mb} of memory, more than DAYBOOK_MAX_PROCESS_MEMORY allows"
        await asyncio.sleep(MEMORY_CHECK_INTERVAL_SECONDS)


async def record_or_end(record: UpRecord, child: Child) -> None:
    """Add a started child to the record. If this fails, end the child and raise the error."""
    try:
        record.add_child(child)
    except BaseException:
        await child.terminate()
        raise


def _record_change(
    change: Callable[[Child], None], child: Child, say: Callable[[str], None]
) -> None:
    """Apply ``change`` to the record, or report why not; the next change also writes this one."""
    try:
        change(child)
    except OSError as error:
        say(f"Could not record the running processes: {error}")
