"""One slow question for all who ask it at once, and a thread in which it is answered."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Generic, TypeVar

T = TypeVar("T")

OLDEST = 60.0
"""Seconds after which an answer is not given again, however slow the next one is."""


class Shared(Generic[T]):
    """The answer of ``look``, given again for ``fresh`` seconds, be it a failure.

    One look serves all who ask at once. If it takes too long for somebody once, the last answer is
    given again: a machine under load is no reason for an alarm. Twice in a row is.
    """

    def __init__(self, look: Callable[[], Awaitable[T]], fresh: float) -> None:
        self._look, self._fresh = look, fresh
        self._task: asyncio.Task[T] | None = None
        self._ended = 0.0
        self._missed_at: float | None = None
        self._known: tuple[float, T] | None = None

    async def ask(self, patience: float) -> T:
        """What it found, or the error that it met; `TimeoutError` when it takes too long."""
        asked, task = time.monotonic(), self._task
        if task is None or (task.done() and asked - self._ended >= self._fresh):
            task = self.begin()
        await asyncio.wait({task}, timeout=patience)
        if task.done():
            return task.result()
        missed_before = self._missed_at is not None and self._missed_at <= asked
        self._missed_at = self._missed_at or time.monotonic()
        if missed_before or self._known is None or asked - self._known[0] > OLDEST:
            raise TimeoutError
        return self._known[1]

    def begin(self) -> asyncio.Task[T]:
        self._task = asyncio.create_task(self._timed())
        self._task.add_done_callback(_seen)
        return self._task

    async def _timed(self) -> T:
        try:
            found = await self._look()
            self._known = (time.monotonic(), found)
            return found
        except BaseException:
            self._known = None
            raise
        finally:
            self._ended, self._missed_at = time.monotonic(), None

    async def stop(self, patience: float) -> None:
        """Let it come to its end; a driver that is interrupted in the middle may never answer."""
        if self._task is not None and not self._task.done():
            await asyncio.wait({self._task}, timeout=patience)
            self._task.cancel()


def _seen(task: asyncio.Task[Any]) -> None:
    """Its error is told to who asks; where nobody asks any more, it is nobody's."""
    if not task.cancelled():
        task.exception()


class LoopThread:
    """An event loop in a thread of its own, so that computing there delays no answer here."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    async def do(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of ``work``, done there; it is cancelled with the caller."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    async def stop(self, patience: float) -> None:
        """End the thread; what still hangs after ``patience`` seconds ends with the process."""
        await asyncio.wait({asyncio.create_task(self.do(_cancel_all()))}, timeout=patience)
        self._loop.call_soon_threadsafe(self._loop.stop)
        await asyncio.to_thread(self._thread.join, patience)
        if not self._thread.is_alive():
            self._loop.close()


async def _cancel_all() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for each in others:
        each.cancel()
    await asyncio.gather(*others, return_exceptions=True)
