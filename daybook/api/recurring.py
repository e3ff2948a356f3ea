"""`daybook.Recurring`: recurring calls inside a running program. Nothing is stored.

::

    due ─► call ─► the next due time after now        keeps its phase and drops due times that
     ▲              │                                 passed in the meantime: calls never overlap
     └──────────────┘

`Recurring` uses neither ledger nor Prefect, so due times while the program is not running are lost.
Use a job of `daybook.Client` for calls that must not be lost.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Self

import anyio.to_thread

from daybook import registry, settings
from daybook.api.sync_wrapper import SyncWrapper
from daybook.clock import SYSTEM_CLOCK, Clock
from daybook.processes.ending import wait_shielded
from daybook.schedules.due import next_due
from daybook.schedules.schedule import Schedule, make

log = logging.getLogger(__name__)

CLOCK_SETBACK_GRACE = timedelta(seconds=1)
"""If a clock is set back by less than this time, no due time is repeated."""

OnError = Callable[[str, BaseException], Any]


@dataclass(eq=False)
class RecurringTask:
    """A function that is called on a schedule, with the numbers of its calls and of its errors."""

    name: str
    schedule: Schedule
    function: Callable[[], Any] = field(repr=False)
    calls: int = 0
    errors: int = 0
    _end: Callable[[], object] = field(default=lambda: None, repr=False)

    def cancel(self) -> None:
        """Stop the calls. If an `async def` is in progress, cancel it."""
        self._end()


class Recurring(SyncWrapper):
    """Calls functions repeatedly while a block runs. Nothing is stored::

        async with daybook.Recurring() as tasks:
            tasks.every("30s", refresh)
            tasks.cron("0 9 * * 1-5", greet, timezone="Europe/Berlin")
            await serve()

    A program without an event loop uses `with`; `tasks.wait()` then waits until the program is
    interrupted. A function takes no arguments. An `async def` is called in this event loop; with
    `with` instead of `async with`, in an event loop of a separate thread. Any other function is
    called in a thread.

    If a function raises an exception, `Recurring` logs it, passes it to ``on_error`` with the
    task's name, and continues the calls. The end of the block cancels an `async def` that is in
    progress, and waits for a function in a thread.
    """

    def __init__(self, *, on_error: OnError | None = None, clock: Clock = SYSTEM_CLOCK) -> None:
        self._on_error, self._clock = on_error, clock
        self._tasks: list[RecurringTask] = []
        self._running: dict[RecurringTask, asyncio.Task[None]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = threading.Event()

    @property
    def tasks(self) -> tuple[RecurringTask, ...]:
        """Return the tasks that were added and not cancelled."""
        return tuple(self._tasks)

    def every(self, every: str, function: Callable[[], Any], *, name: str = "") -> RecurringTask:
        """Call ``function`` every `30s`, `10m`, `1h30m`, …, for the first time after one interval.

        Raise `InvalidInput` unless ``every`` is a duration of whole seconds.
        """
        return self._add(make(every=every, timezone="UTC", now=self._clock.now()), function, name)

    def cron(
        self, cron: str, function: Callable[[], Any], *, timezone: str = "", name: str = ""
    ) -> RecurringTask:
        """Call ``function`` at the times of a cron expression. Six fields have the seconds first.

        ``timezone`` is an IANA name (default: the setting). Raise `InvalidInput` for an invalid
        expression or zone.
        """
        zone = timezone or settings.load().timezone
        return self._add(make(cron=cron, timezone=zone, now=self._clock.now()), function, name)

    def wait(self) -> None:
        """Wait until the program is interrupted or another thread ends the block.

        Use it inside `with`.
        """
        self._closed.wait()

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._closed.clear()
        for task in self._tasks:
            self._start(task)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._loop = None
        running = list(self._running.values())
        for each in running:
            each.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        self._closed.set()

    def _add(self, schedule: Schedule, function: Callable[[], Any], name: str) -> RecurringTask:
        task = RecurringTask(
            name or registry.qualified_name(inspect.unwrap(function)), schedule, function
        )
        task._end = lambda: self._in_loop(self._stop, task)
        self._tasks.append(task)
        self._in_loop(self._start, task)
        return task

    def _in_loop(self, callback: Callable[[RecurringTask], None], task: RecurringTask) -> None:
        """Call ``callback`` in the loop's thread: now if this is that thread, otherwise soon.

        Outside the block there is no loop. Then ``callback`` is called only if it stops the task:
        the block starts all tasks when it is entered.
        """
        loop = self._loop
        if loop is None:
            if callback == self._stop:
                self._stop(task)
            return
        try:
            current_loop = asyncio.get_running_loop()
        except RuntimeError:
            current_loop = None
        if current_loop is loop:
            callback(task)
        else:
            loop.call_soon_threadsafe(callback, task)

    def _start(self, task: RecurringTask) -> None:
        if task not in self._running and task in self._tasks:
            self._running[task] = asyncio.create_task(self._run_schedule(task), name=task.name)
            self._running[task].add_done_callback(lambda _: self._running.pop(task, None))

    def _stop(self, task: RecurringTask) -> None:
        if task in self._tasks:
            self._tasks.remove(task)
        if running := self._running.get(task):
            running.cancel()

    async def _run_schedule(self, task: RecurringTask) -> None:
        due = next_due(task.schedule, self._clock.now())
        while due is not None:
            await self._clock.wait_until(due)
            await self._call(task)
            now = self._clock.now()
            due = next_due(task.schedule, due if due - CLOCK_SETBACK_GRACE < now < due else now)

    async def _call(self, task: RecurringTask) -> None:
        task.calls += 1
        try:
            if registry.is_async(task.function):
                await task.function()
            else:
                await wait_shielded(asyncio.create_task(anyio.to_thread.run_sync(task.function)))
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if current is None or current.cancelling():
                raise
            await self._failed(task, RuntimeError("it cancelled itself"))
        except Exception as error:
            await self._failed(task, error)

    async def _failed(self, task: RecurringTask, error: BaseException) -> None:
        task.errors += 1
        log.error("%s failed", task.name, exc_info=error, extra={"action": "recurring_failed"})
        if self._on_error is None:
            return
        try:
            if inspect.isawaitable(result := self._on_error(task.name, error)):
                await result
        except Exception:
            log.exception("on_error failed", extra={"action": "recurring_failed"})
