"""A lock that the earliest run gets next, whoever asked for it first."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from itertools import count


class Turns:
    """One claim at a time, by due time; claims of one due time in the order in which they came."""

    def __init__(self) -> None:
        self._busy = False
        self._waiting: list[tuple[datetime, int, asyncio.Future[None]]] = []
        self._numbers = count()

    @asynccontextmanager
    async def turn(self, due: datetime) -> AsyncIterator[None]:
        """Wait for the lock and hold it."""
        if self._busy:
            mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            heapq.heappush(self._waiting, (due, next(self._numbers), mine))
            try:
                await mine
            except asyncio.CancelledError:
                if mine.done() and not mine.cancelled():
                    self._pass_on()  # it was this one's turn already
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
                return  # still busy: nobody else may come in between
        self._busy = False
