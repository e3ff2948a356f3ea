"""Where what blocks is done: a thread of its own, with an end, and silent.

Apprise and what it sends with log the addresses that they call, in which secrets stand. While our
own thread sends, what they log is kept here: warnings become the words of the failure, the rest
goes nowhere. What other threads of the process log is left alone.
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

from daybook.delivery.channels.base import WITHIN, NotDelivered

T = TypeVar("T")

_LOGGERS = (
    "apprise",
    "httpcore.connection",
    "httpcore.http11",
    "httpx",
    "urllib3.connectionpool",
    "urllib3.util.retry",
)

_heard: ContextVar[list[str] | None] = ContextVar("heard", default=None)


class _Kept(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        heard = _heard.get()
        if heard is None:
            return True
        if record.levelno >= logging.WARNING:
            heard.append(" ".join(record.getMessage().split()))
        return False


_KEPT = _Kept()


@contextmanager
def silently() -> Iterator[list[str]]:
    """What is logged inside is kept in the list."""
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_KEPT)  # once, however often
    heard: list[str] = []
    token = _heard.set(heard)
    try:
        yield heard
    finally:
        _heard.reset(token)


async def done(work: Callable[[list[str]], T], within: float = WITHIN) -> T:
    """Let ``work`` be done; it is given the list of what is logged, and what it raises is raised.

    The thread is no one's to wait for: where it hangs it is left behind, and ends with the process.
    """
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[T] = loop.create_future()

    def tell(end: Callable[[], None]) -> None:
        if not ended.done():
            end()

    def run() -> None:
        end: Callable[[], None]
        with silently() as heard:
            try:
                end = partial(ended.set_result, work(heard))
            except BaseException as error:
                end = partial(ended.set_exception, error)
        with suppress(RuntimeError):  # the loop is closed: nobody asks any more
            loop.call_soon_threadsafe(tell, end)

    threading.Thread(target=run, name="daybook-channel", daemon=True).start()
    try:
        async with asyncio.timeout(within):
            return await ended
    except TimeoutError:
        raise NotDelivered(f"no end within {within:g} s; it may have arrived") from None
