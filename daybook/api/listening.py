"""`daybook.listening`: a program has its own listeners called, wherever the runs are.

They are announced in the ledger, so every outcome is written down for them from then on; those of
the time in which the program did not run come when it runs again, if that was within a day.
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
from daybook.api.sync_wrapper import Faces
from daybook.delivery import listeners
from daybook.delivery.listener_calls import listen
from daybook.errors import InvalidInput, Unreachable
from daybook.ledger.engine import Ledger, open_ledger
from daybook.ledger.tables import new_id

log = logging.getLogger(__name__)

LOOK = 0.5
"""Seconds between two looks."""
AWAY = 5.0
"""The same while the ledger is not to be reached."""
ANNOUNCED = 3600.0
"""Seconds for which what was announced is left at that."""
LAST = 5.0
"""Seconds in which, at the end, what is being told and what is due by then are still told."""


class Listening(Faces):
    """See `listening`."""

    def __init__(self) -> None:
        self._names = registry.here(registry.LISTENERS)
        if not self._names:
            raise InvalidInput(
                "listener", "none is registered", "write @daybook.listener above one"
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
        self._ending = asyncio.Event()
        self._task = asyncio.create_task(self._go_on(self._ledger))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._ledger is not None and self._task is not None
        self._ending.set()
        with anyio.CancelScope(shield=True), suppress(TimeoutError, Unreachable):
            async with self._resources, asyncio.timeout(LAST):
                await asyncio.gather(self._task, return_exceptions=True)
                if error is None:
                    await self._tell(self._ledger)

    async def _go_on(self, ledger: Ledger) -> None:
        announced = time.monotonic()
        while not self._ending.is_set():
            rest = LOOK
            try:
                if time.monotonic() - announced > ANNOUNCED:
                    await listeners.announce(ledger, self._names)
                    announced = time.monotonic()
                await self._tell(ledger)
            except Unreachable as error:
                log.warning("not told yet: %s", error, extra={"action": "listening_away"})
                rest = AWAY
            except Exception:
                log.exception("not told yet", extra={"action": "listening_failed"})
                rest = AWAY
            with suppress(TimeoutError):
                async with asyncio.timeout(rest):
                    await self._ending.wait()

    async def _tell(self, ledger: Ledger) -> None:
        await listen(ledger, self._holder, self._names, at_home=True)


def listening() -> Listening:
    """Have the listeners of this program called, of all runs of the home, while a block lasts::

        @daybook.listener
        async def show(run: dict[str, Any]) -> None:
            await websocket.send_json(run)

        async with daybook.listening():
            await serve()

    An `async def` is called in this loop (of a `with`: in one of its own, in a thread), any other
    in a thread. From the first time on no outcome is lost to them while the program is away, for up
    to a day. The block's end waits for one that is being told, for `LAST` seconds at most. Those
    that are to be called by `daybook up` itself stand in a module of the setting `plugins` instead.
    Raises `InvalidInput` where none is registered, `LedgerUnreachable`.
    """
    return Listening()
