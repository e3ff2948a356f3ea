"""The database's clock, told without asking it each time (`docs/promise.md` 16).

Each transaction asks the database for its time as it begins. The answer was true at some moment
between asking and being answered, on this process's monotonic clock; so the estimate stays as long
as no answer contradicts it, and is moved as little as it must otherwise. However slow an answer
was, it never makes the estimate worse. Between two answers the monotonic clock tells how much
time went by: to set the machine's clock changes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta

from daybook.clock import SYSTEM, SystemClock

SET_BACK = timedelta(seconds=1)
"""An estimate that is corrected back by less than this stands still until it is true again."""


class DatabaseClock(SystemClock):
    """Tells the database's time, in UTC; before the first answer the machine's."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._zero: datetime | None = None
        """What the database's clock showed when the monotonic one was at zero."""
        self._latest: datetime | None = None

    def told(self, instant: datetime, asked: float, answered: float) -> None:
        """The database's clock showed ``instant`` between these times of the monotonic one."""
        earliest = instant - timedelta(seconds=answered)
        latest = instant - timedelta(seconds=asked)
        if self._zero is None:
            self._zero = earliest + (latest - earliest) / 2
        else:
            self._zero = min(max(self._zero, earliest), latest)

    def now(self) -> datetime:
        if self._zero is None:
            return super().now()
        now = self._zero + timedelta(seconds=self._monotonic())
        if self._latest is not None and timedelta(0) < self._latest - now < SET_BACK:
            return self._latest
        self._latest = now
        return now

    def skew(self) -> timedelta:
        """How far it is ahead of the machine's clock; zero before the first answer."""
        return timedelta(0) if self._zero is None else self.now() - SYSTEM.now()
