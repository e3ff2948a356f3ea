"""`daybook.listening`: context manager that calls a program's own listeners.

It calls them for the runs that any process executes.

Daybook announces the listeners in the ledger, so each later outcome is also stored for them. If the
program stops for less than a day, it gets the outcomes of that time when it starts again.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from contextlib import AsyncExitStack, suppress
from types import TracebackType
from typing import Self

import anyio

from daybook import registry
from daybook.api.sync_wrapper import SyncWrapper
from daybook.delivery import listeners
from daybook.delivery.listener_calls import call_listeners
from daybook.errors import InvalidInput, Unreachable
from daybook.ledger.engine import Ledger, open_ledger
from daybook.ledger.tables import new_id

log = logging.getLogger(__name__)

POLL_INTERVAL_SECONDS = 0.5
"""Interval between two polls of the outbox."""
ERROR_DELAY_SECONDS = 5.0
"""Delay before the next poll after an error, such as an unreachable ledger."""
ANNOUNCE_INTERVAL_SECONDS = 3600.0
"""Interval between two announcements of the same listeners."""
SHUTDOWN_TIMEOUT_SECONDS = 5.0
"""Maximum time, at the end of the block, for listener calls that are in progress or due."""


class Listening(SyncWrapper):
    """The context manager that `listening` returns."""

    def __init__(self) -> None:
        self._names = registry.known_names(registry.LISTENERS)
        if not self._names:
            raise InvalidInput(
                "listener", "none is registered", "decorate a function with @daybook.listener"
            )
        self._holder = f"{socket.gethostname()}:{os.getpid()}:listens-{new_id()[:8]}"
        self._resources = AsyncExitStack()
        self._ledger: Ledger | None = None
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            self._ledger = await stack.enter_async_context(open_ledger())
            await listeners.announce(self._ledger, self._names)
            self._resources = stack.pop_all()
        self._stopping = asyncio.Event()
        self._task = asyncio.create_task(self._poll(self._ledger))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._ledger is not None and self._task is not None
        self._stopping.set()
        with anyio.CancelScope(shield=True), suppress(TimeoutError, Unreachable):
            async with self._resources, asyncio.timeout(SHUTDOWN_TIMEOUT_SECONDS):
                await asyncio.gather(self._task, return_exceptions=True)
                if error is None:
                    await self._deliver(self._ledger)

    async def _poll(self, ledger: Ledger) -> None:
        announced = time.monotonic()
        while not self._stopping.is_set():
            delay = POLL_INTERVAL_SECONDS
            try:
                if time.monotonic() - announced > ANNOUNCE_INTERVAL_SECONDS:
                    await listeners.announce(ledger, self._names)
                    announced = time.monotonic()
                await self._deliver(ledger)
            except Unreachable as error:
                log.warning(
                    "cannot call the listeners now: %s", error, extra={"action": "listening_away"}
                )
                delay = ERROR_DELAY_SECONDS
            except Exception:
                log.exception("cannot call the listeners now", extra={"action": "listening_failed"})
                delay = ERROR_DELAY_SECONDS
            with suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self._stopping.wait()

    async def _deliver(self, ledger: Ledger) -> None:
        await call_listeners(ledger, self._holder, self._names, in_this_loop=True)


def listening() -> Listening:
    """Call this program's listeners for all runs of the home, while a block runs::

        @daybook.listener
        async def show(run: dict[str, Any]) -> None:
            await websocket.send_json(run)

        async with daybook.listening():
            await serve()

    An `async def` is called in this event loop; with `with` instead of `async with`, in an event
    loop of a separate thread. Any other function is called in a thread. If the program was stopped
    for less than a day, it also gets the outcomes of that time. The end of the block waits at most
    `SHUTDOWN_TIMEOUT_SECONDS` for calls that are in progress or due.

    If `daybook up` itself should call a listener, put the listener into a module of the setting
    `plugins` instead. Raise `InvalidInput` if no listener is registered. The start of the block
    raises `LedgerUnreachable`.
    """
    return Listening()
