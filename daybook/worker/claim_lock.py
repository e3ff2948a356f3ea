"""The order in which the due runs of one worker claim."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from itertools import count

ClaimOrder = tuple[bool, datetime, bool]
"""The values of `claim_order`, and whether the run was not woken for a free slot."""

_Waiting = tuple[ClaimOrder, int, asyncio.Future[None]]
_Queue = list[_Waiting]

MAX_TURNS_BEFORE_LATE = 2
"""How many claims of other runs in succession precede a late run that waits."""


class FirstInOrderLock:
    """Lock that allows one claim at a time, in `ClaimOrder`.

    Claims with equal keys get the lock in the order of arrival. If runs that are not late always
    wait, each third turn is a late run's. A parked claim gets the lock only while ``may_unpark``
    returns True; others go before it meanwhile. Call `unpark` when it may return True again.
    """

    def __init__(self, may_unpark: Callable[[], bool] = lambda: True) -> None:
        self._may_unpark = may_unpark
        self._busy = False
        self._on_time, self._parked, self._late = _Queue(), _Queue(), _Queue()
        self._turns_before_late = 0
        self._arrivals = count()

    @property
    def parked(self) -> int:
        """Return how many claims are parked."""
        return len(self._parked)

    @asynccontextmanager
    async def turn(self, order: ClaimOrder, *, park_seconds: float = 0.0) -> AsyncIterator[None]:
        """Wait for the lock, and hold it while the block runs.

        The claim is parked for at most ``park_seconds``.
        """
        parks = park_seconds > 0
        if self._busy or (parks and (self._parked or not self._may_unpark())):
            loop = asyncio.get_running_loop()
            ready: asyncio.Future[None] = loop.create_future()
            waiting = (order, next(self._arrivals), ready)
            timer = None
            if parks:
                heapq.heappush(self._parked, waiting)
                timer = loop.call_later(park_seconds, self._end_parking, waiting)
                self.unpark()
            else:
                heapq.heappush(self._late if order[0] else self._on_time, waiting)
            try:
                await ready
            except asyncio.CancelledError:
                if ready.done() and not ready.cancelled():
                    self._pass_on()  # cancelled just after it got the lock
                raise
            finally:
                if timer is not None:
                    timer.cancel()
        self._busy = True
        try:
            yield
        finally:
            self._pass_on()

    def unpark(self) -> None:
        """Let the next parked claim have the lock if it may."""
        if not self._busy:
            self._pass_on()

    def _end_parking(self, waiting: _Waiting) -> None:
        if waiting in self._parked:
            self._parked.remove(waiting)
            heapq.heapify(self._parked)
            heapq.heappush(self._on_time, waiting)
        self.unpark()

    def _pass_on(self) -> None:
        while (queue := self._next_queue()) is not None:
            *_, following = heapq.heappop(queue)
            if not following.done():
                is_late = queue is self._late
                self._turns_before_late = 0 if is_late else self._turns_before_late + 1
                self._busy = True
                following.set_result(None)
                return  # still busy, so that no new claim overtakes this one
        self._busy = False

    def _next_queue(self) -> _Queue | None:
        queues = [self._on_time]
        if self._parked and self._may_unpark():
            queues.append(self._parked)
        first = min(filter(None, queues), default=None, key=lambda queue: queue[0])
        if self._late and (first is None or self._turns_before_late >= MAX_TURNS_BEFORE_LATE):
            return self._late
        return first
