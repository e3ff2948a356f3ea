"""What the passes over jobs may cost: a share of a core, in the long run."""

from __future__ import annotations

import time
from collections.abc import Callable

SHARE = 0.02
"""How much of a core the passes over jobs may use."""
SAVED = 2.0
"""Seconds of CPU that they may use at once when they have used none for long."""
OWED = 300.0
"""Seconds: the longest wait that one of them can bring about."""


class Budget:
    """A share of a core: what a pass has cost is paid back before the next one, within `OWED`."""

    def __init__(
        self,
        share: float = SHARE,
        saved: float = SAVED,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._share, self._most, self._clock = share, saved, clock
        self._left, self._at = saved, clock()

    def spend(self, seconds: float) -> None:
        """So much CPU was used."""
        self._accrue()
        self._left = max(self._left - seconds, -OWED * self._share)

    def wait(self) -> float:
        """How many seconds it takes until nothing is owed."""
        self._accrue()
        return max(0.0, -self._left / self._share)

    def _accrue(self) -> None:
        now = self._clock()
        self._left = min(self._left + (now - self._at) * self._share, self._most)
        self._at = now
