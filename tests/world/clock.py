"""The machine's clock, put forward."""

from __future__ import annotations

from datetime import datetime, timedelta

from daybook.clock import SYSTEM_CLOCK
from daybook.testing import ManualClock


class Ahead(ManualClock):
    """The machine's clock, which a test can advance."""

    def __init__(self) -> None:
        super().__init__()
        self._by = timedelta(0)

    def now(self) -> datetime:
        return SYSTEM_CLOCK.now() + self._by

    def set(self, instant: datetime) -> datetime:
        return self.move(instant - self.now())

    def move(self, by: timedelta) -> datetime:
        self._by += by
        return self.now()

    async def wait_until(self, instant: datetime) -> None:
        await SYSTEM_CLOCK.wait_until(SYSTEM_CLOCK.now() + (instant - self.now()))
