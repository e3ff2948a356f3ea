"""`daybook.Recurring`: tasks that nobody stores, in a program that runs anyway.

::

    due ─► call ─► the next due time after now        its phase is kept, and what passed meanwhile
     ▲              │                                 is left out: no call overlaps the one before
     └──────────────┘

No ledger and no Prefect take part: what was due while the program did not run is not known by
anyone. A job of `daybook.Client` is for what has to be.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

import anyio.to_thread

from daybook import registry, settings
from daybook.api.sync_wrapper import Faces
from daybook.clock import SYSTEM, Clock
from daybook.processes.ending import to_its_end
from daybook.schedules.due import next_due
from daybook.schedules.schedule import Cron, Every, Schedule, make

log = logging.getLogger(__name__)

STEP = timedelta(seconds=1)
"""By so much a clock may be set back without a due time coming twice."""

OnError = Callable[[str, BaseException], Any]


@dataclass(eq=False)
class Task:
    """One task. ``calls`` is how often it was called, ``errors`` how often it failed."""

    name: str
    schedule: Schedule
    function: Callable[[], Any] = field(repr=False)
    calls: int = 0
    errors: int = 0
    _end: Callable[[], object] = field(default=lambda: None, repr=False)

    def cancel(self) -> None:
        """Call it no more; one that is at work and is an `async def` is ended."""
        self._end()


class Recurring(Faces):
    """Calls functions again and again, for as long as a block lasts. Nothing is stored::

        async with daybook.Recurring() as tasks:
            tasks.every("30s", refresh)
            tasks.cron("0 9 * * 1-5", greet, timezone="Europe/Berlin")
            await serve()

    In a program without a loop it is `with`, and `tasks.wait()` waits until it is interrupted. A
    function takes no arguments. An `async def` is called in this loop (of a `with`: in one of its
    own, in a thread), any other in a thread. What it raises is logged, told to ``on_error`` with
    the task's name, and ends nothing. At the block's end what is an `async def` is cancelled, and
    what runs in a thread is waited for.
    """

    def __init__(self, *, on_error: OnError | None = None, clock: Clock = SYSTEM) -> None:
        self._on_error, self._clock = on_error, clock
        self._tasks: list[Task] = []
        self._running: dict[Task, asyncio.Task[None]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = threading.Event()

    @property
    def tasks(self) -> tuple[Task, ...]:
        """All that were added and not cancelled."""
        return tuple(self._tasks)

    def every(self, every: str, function: Callable[[], Any], *, name: str = "") -> Task:
        """Call it every `30s`, `10m`, `1h30m`, …; for the first time after one of these.

        Raises `InvalidInput` for what is no duration of whole seconds.
        """
        return self._add(make(every=every, timezone="UTC", now=self._clock.now()), function, name)

    def cron(
        self, cron: str, function: Callable[[], Any], *, timezone: str = "", name: str = ""
    ) -> Task:
        """Call it at the times of a cron expression, of five fields or six (seconds first).

        ``timezone`` is an IANA name; without it the setting's. Raises `InvalidInput`.
        """
        zone = timezone or settings.load().timezone
        return self._add(make(cron=cron, timezone=zone, now=self._clock.now()), function, name)

    def wait(self) -> None:
        """In a `with`: wait until the program is interrupted, or another thread ends the block."""
        self._closed.wait()

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._closed.clear()
        for task in self._tasks:
            self._begin(task)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._loop = None
        running = list(self._running.values())
        for each in running:
            each.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        self._closed.set()

    def _add(self, schedule: Schedule, function: Callable[[], Any], name: str) -> Task:
        task = Task(name or registry.own_name(inspect.unwrap(function)), schedule, function)
        task._end = lambda: self._in_loop(self._stop, task)
        self._tasks.append(task)
        self._in_loop(self._begin, task)
        return task

    def _in_loop(self, do: Callable[[Task], None], task: Task) -> None:
        """At once in the loop's own thread; else soon. Before the block and after it: at once."""
        loop = self._loop
        if loop is None:
            if do == self._stop:
                self._stop(task)
            return
        try:
            here = asyncio.get_running_loop()
        except RuntimeError:
            here = None
        if here is loop:
            do(task)
        else:
            loop.call_soon_threadsafe(do, task)

    def _begin(self, task: Task) -> None:
        if task not in self._running and task in self._tasks:
            self._running[task] = asyncio.create_task(self._go_on(task), name=task.name)
            self._running[task].add_done_callback(lambda _: self._running.pop(task, None))

    def _stop(self, task: Task) -> None:
        if task in self._tasks:
            self._tasks.remove(task)
        if running := self._running.get(task):
            running.cancel()

    async def _go_on(self, task: Task) -> None:
        assert isinstance(task.schedule, Cron | Every)
        due = next_due(task.schedule, self._clock.now())
        while due is not None:
            await self._clock.wait_until(due)
            await self._call(task)
            now = self._clock.now()
            due = next_due(task.schedule, due if due - STEP < now < due else now)

    async def _call(self, task: Task) -> None:
        task.calls += 1
        try:
            if registry.is_async(task.function):
                await task.function()
            else:
                await to_its_end(asyncio.create_task(anyio.to_thread.run_sync(task.function)))
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if current is None or current.cancelling():
                raise
            await self._failed(task, RuntimeError("it cancelled itself"))
        except Exception as error:
            await self._failed(task, error)

    async def _failed(self, task: Task, error: BaseException) -> None:
        task.errors += 1
        log.error("%s failed", task.name, exc_info=error, extra={"action": "recurring_failed"})
        if self._on_error is None:
            return
        try:
            if inspect.isawaitable(found := self._on_error(task.name, error)):
                await found
        except Exception:
            log.exception("on_error failed", extra={"action": "recurring_failed"})
