"""The order in which the due runs of one worker claim."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from itertools import count

ClaimOrder = tuple[bool, datetime, bool]
"""The values of `claim_order`, and whether the run was not woken for a free slot."""


class FirstInOrderLock:
    """Lock that allows one claim at a time, in `ClaimOrder`.

    Claims with equal keys get the lock in the order of arrival.
    """

    def __init__(self) -> None:
        self._busy = False
        self._waiting: list[tuple[ClaimOrder, int, asyncio.Future[None]]] = []
        self._arrivals = count()

    @asynccontextmanager
    async def turn(self, order: ClaimOrder) -> AsyncIterator[None]:
        """Wait for the lock, and hold it while the block runs."""
        if self._busy:
            ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            heapq.heappush(self._waiting, (order, next(self._arrivals), ready))
            try:
                await ready
            except asyncio.CancelledError:
                if ready.done() and not ready.cancelled():
                    self._pass_on()  # cancelled just after it got the lock
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
                return  # still busy, so that no new claim overtakes this one
        self._busy = False
