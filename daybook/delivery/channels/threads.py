"""Execution of blocking work in its own thread, with a timeout and captured logs.

Apprise and its HTTP libraries log the URLs that they call, which contain secrets. While a thread of
this module sends, the module captures the logs of that thread. Warnings become the text of the
failure, and other log lines are discarded. The logs of other threads are unchanged.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import partial
from typing import TypeVar

from daybook.delivery.channels.base import SEND_TIMEOUT_SECONDS, NotDelivered

T = TypeVar("T")

_LOGGERS = (
    "apprise",
    "httpcore.connection",
    "httpcore.http11",
    "httpx",
    "urllib3.connectionpool",
    "urllib3.util.retry",
)

_captured: ContextVar[list[str] | None] = ContextVar("captured", default=None)


class _CaptureFilter(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        captured = _captured.get()
        if captured is None:
            return True
        if record.levelno >= logging.WARNING:
            # Of an unexpected error, the message alone would not say the reason.
            raised = record.exc_info[1] if record.exc_info else None
            reason = f": {type(raised).__name__}: {raised}" if raised else ""
            captured.append(" ".join((record.getMessage() + reason).split()))
        return False


_CAPTURE_FILTER = _CaptureFilter()


@contextmanager
def capture_logs() -> Iterator[list[str]]:
    """Capture the log lines of `_LOGGERS` in this thread. Yield the list of captured warnings."""
    for name in _LOGGERS:
        # Adding the same filter again has no effect.
        logging.getLogger(name).addFilter(_CAPTURE_FILTER)
    captured: list[str] = []
    token = _captured.set(captured)
    try:
        yield captured
    finally:
        _captured.reset(token)


async def run_capturing_logs(
    work: Callable[[list[str]], T], within: float = SEND_TIMEOUT_SECONDS, *, sends: bool = False
) -> T:
    """Run ``work`` in a thread. Return its result, or raise its error.

    ``work`` receives the list of captured warnings. If it does not end within ``within`` seconds,
    raise `NotDelivered`; the abandoned thread ends with the process. ``sends`` is true if ``work``
    sends a message. After such a timeout, this message may have arrived.
    """
    loop = asyncio.get_running_loop()
    result: asyncio.Future[T] = loop.create_future()

    def finish(outcome: Callable[[], None]) -> None:
        if not result.done():
            outcome()

    def run() -> None:
        outcome: Callable[[], None]
        with capture_logs() as captured:
            try:
                outcome = partial(result.set_result, work(captured))
            except BaseException as error:
                outcome = partial(result.set_exception, error)
        with suppress(RuntimeError):  # the loop is closed, so no caller waits any more
            loop.call_soon_threadsafe(finish, outcome)

    threading.Thread(target=run, name="daybook-channel", daemon=True).start()
    try:
        async with asyncio.timeout(within):
            return await result
    except TimeoutError:
        problem = f"no result within {within:g} s" + "; it may have arrived" * sends
        raise NotDelivered(problem) from None
