"""Lock that the earliest due run gets next, in whatever order the runs asked for it."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from itertools import count


class EarliestFirstLock:
    """One claim at a time, by due time; claims with the same due time in order of arrival."""

    def __init__(self) -> None:
        self._busy = False
        self._waiting: list[tuple[datetime, int, asyncio.Future[None]]] = []
        self._arrivals = count()

    @asynccontextmanager
    async def turn(self, due: datetime) -> AsyncIterator[None]:
        """Wait for the lock and hold it."""
        if self._busy:
            ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            heapq.heappush(self._waiting, (due, next(self._arrivals), ready))
            try:
                await ready
            except asyncio.CancelledError:
                if ready.done() and not ready.cancelled():
                    self._pass_on()  # it had the lock already
                raise
        self._busy = True
        try:
            yield
        finally:
            self._pass_on()

    def _pass_on(self) -> None:
        while self._waiting:
            *_, following = heapq.heappop(self._waiting)
            if not following.done():
                following.set_result(None)
                return  # still busy: no newcomer may come in between
        self._busy = False
