"""A clock that estimates the database's time without a query for each reading.

Each transaction reads the database's time when it starts (promise 16: the ledger's clock decides
whether a run is due). The time in the answer was correct at some moment between the query and the
answer, which this process measures with its monotonic clock. So the estimate changes only if an
answer contradicts it, and then as little as possible: a slow answer never makes the estimate worse.
Between two answers, the monotonic clock advances the estimate, so a change of the machine's clock
has no effect.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta

from daybook.clock import SYSTEM_CLOCK, SystemClock

MAX_STANDSTILL = timedelta(seconds=1)
"""Maximum correction backwards for which the clock stands still instead of going back."""


class DatabaseClock(SystemClock):
    """A clock that shows the database's time in UTC; the machine's time before the first answer."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._zero: datetime | None = None
        """The database's time when the monotonic clock was zero."""
        self._latest: datetime | None = None

    def observe(self, instant: datetime, asked: float, answered: float) -> None:
        """Record that the database's clock showed ``instant`` between ``asked`` and ``answered``.

        ``asked`` and ``answered`` are times of the monotonic clock, in seconds.
        """
        earliest = instant - timedelta(seconds=answered)
        latest = instant - timedelta(seconds=asked)
        if self._zero is None:
            self._zero = earliest + (latest - earliest) / 2
        else:
            self._zero = min(max(self._zero, earliest), latest)

    def forget(self) -> None:
        """Forget all observations."""
        self._zero = self._latest = None

    def now(self) -> datetime:
        if self._zero is None:
            return super().now()
        now = self._zero + timedelta(seconds=self._monotonic())
        if self._latest is not None and timedelta(0) < self._latest - now < MAX_STANDSTILL:
            return self._latest
        self._latest = now
        return now

    def skew(self) -> timedelta:
        """Return how far this clock is ahead of the machine's; zero before the first answer."""
        return timedelta(0) if self._zero is None else self.now() - SYSTEM_CLOCK.now()
