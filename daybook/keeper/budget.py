"""CPU budget of the job services: a share of one core in the long run."""

from __future__ import annotations

import time
from collections.abc import Callable

CPU_SHARE = 0.02
"""Share of one core that the job services may use."""
MAX_BURST_SECONDS = 2.0
"""Seconds of CPU that they may use in a burst after a long time without use."""
MAX_WAIT_SECONDS = 300.0
"""The longest wait that one cycle can cause."""


class CpuBudget:
    """A token bucket of CPU seconds.

    A cycle that overdraws it delays the next one until the debt is paid back, at most by
    `MAX_WAIT_SECONDS`.
    """

    def __init__(
        self,
        share: float = CPU_SHARE,
        saved: float = MAX_BURST_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._share, self._most, self._clock = share, saved, clock
        self._left, self._at = saved, clock()

    def spend(self, seconds: float) -> None:
        """Deduct CPU seconds that were used."""
        self._accrue()
        self._left = max(self._left - seconds, -MAX_WAIT_SECONDS * self._share)

    def wait(self) -> float:
        """Return the seconds until no debt is left."""
        self._accrue()
        return max(0.0, -self._left / self._share)

    def _accrue(self) -> None:
        now = self._clock()
        self._left = min(self._left + (now - self._at) * self._share, self._most)
        self._at = now
