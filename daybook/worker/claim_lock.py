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

_Waiting = tuple[ClaimOrder, int, asyncio.Future[None]]


MAX_TURNS_BEFORE_LATE = 2
"""How many claims of other runs in succession precede a late run that waits."""


class FirstInOrderLock:
    """Lock that allows one claim at a time, in `ClaimOrder`.

    Claims with equal keys get the lock in the order of arrival. If runs that are not late always
    wait, each third turn is a late run's.
    """

    def __init__(self) -> None:
        self._busy = False
        self._on_time, self._late = list[_Waiting](), list[_Waiting]()
        self._turns_before_late = 0
        self._arrivals = count()

    @property
    def waiting_on_time(self) -> int:
        """Return how many claims wait, without those of late runs."""
        return len(self._on_time)

    @asynccontextmanager
    async def turn(self, order: ClaimOrder) -> AsyncIterator[None]:
        """Wait for the lock, and hold it while the block runs."""
        if self._busy:
            ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            heapq.heappush(
                self._late if order[0] else self._on_time, (order, next(self._arrivals), ready)
            )
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
        while self._on_time or self._late:
            is_late = not self._on_time or (
                bool(self._late) and self._turns_before_late >= MAX_TURNS_BEFORE_LATE
            )
            *_, following = heapq.heappop(self._late if is_late else self._on_time)
            if not following.done():
                self._turns_before_late = 0 if is_late else self._turns_before_late + 1
                following.set_result(None)
                return  # still busy, so that no new claim overtakes this one
        self._busy = False
