"""Query shared by concurrent callers, and an event loop in a thread."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Generic, TypeVar

from daybook.processes import ending

T = TypeVar("T")

MAX_ANSWER_AGE_SECONDS = 60.0
"""Maximum age of a result that `SharedQuery.ask` returns while the next query is slow."""


class SharedQuery(Generic[T]):
    """Result of ``query`` that concurrent callers share.

    All callers wait for the same query. A result counts for ``fresh`` seconds, even if it is an
    error. If the query is too slow for a caller, `ask` returns the last result, because a slow
    answer alone is no reason for an alarm.

    In three cases, `ask` raises `TimeoutError` instead: if the last query failed, if its result is
    older than `MAX_ANSWER_AGE_SECONDS`, or if the caller came after an earlier caller's timeout.
    """

    def __init__(self, query: Callable[[], Awaitable[T]], fresh: float) -> None:
        self._query, self._fresh = query, fresh
        self._task: asyncio.Task[T] | None = None
        self._finished_at = 0.0
        self._timed_out_at: float | None = None
        self._last_answer: tuple[float, T] | None = None

    async def ask(self, patience: float) -> T:
        """Return a result, or raise the query's error.

        Raise `TimeoutError` if the query takes longer than ``patience`` seconds and there is no
        usable last result.
        """
        asked_at, task = time.monotonic(), self._task
        if task is None or (task.done() and asked_at - self._finished_at >= self._fresh):
            task = self.start()
        await asyncio.wait({task}, timeout=patience)
        if task.done():
            return task.result()
        timed_out_before = self._timed_out_at is not None and self._timed_out_at <= asked_at
        self._timed_out_at = self._timed_out_at or time.monotonic()
        if (
            timed_out_before
            or self._last_answer is None
            or asked_at - self._last_answer[0] > MAX_ANSWER_AGE_SECONDS
        ):
            raise TimeoutError
        return self._last_answer[1]

    def start(self) -> asyncio.Task[T]:
        self._task = asyncio.create_task(self._run_query())
        self._task.add_done_callback(_retrieve_exception)
        return self._task

    async def _run_query(self) -> T:
        try:
            answer = await self._query()
            self._last_answer = (time.monotonic(), answer)
            return answer
        except BaseException:
            self._last_answer = None
            raise
        finally:
            self._finished_at, self._timed_out_at = time.monotonic(), None

    async def stop(self, patience: float) -> None:
        """Wait up to ``patience`` seconds for the query, then cancel it.

        An interrupted database driver may never answer.
        """
        if self._task is not None and not self._task.done():
            await asyncio.wait({self._task}, timeout=patience)
            self._task.cancel()


def _retrieve_exception(task: asyncio.Task[Any]) -> None:
    """Mark the task's error as retrieved, because callers that wait get the error from the task."""
    if not task.cancelled():
        task.exception()


class LoopThread:
    """An event loop in its own thread, so that its work does not delay the caller's loop."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run ``work`` in the thread, and return its result.

        If the caller is cancelled, cancel ``work``.
        """
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    async def cancel_all(self) -> None:
        """Cancel all work and wait until it has ended."""
        await self.run(_cancel_all())

    async def stop(self, patience: float) -> None:
        """Cancel all work and end the thread, each within ``patience`` seconds.

        If work hangs for longer, it ends with the process.
        """
        await asyncio.wait({asyncio.create_task(self.cancel_all())}, timeout=patience)
        self._loop.call_soon_threadsafe(self._loop.stop)
        await asyncio.to_thread(self._thread.join, patience)
        if not self._thread.is_alive():
            self._loop.close()


async def _cancel_all() -> None:
    await ending.cancel_all(*asyncio.all_tasks() - {asyncio.current_task()})
