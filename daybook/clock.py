"""Clocks: the interface `Clock`, and the machine's clock.

Pure functions take instants; only the edge of a process reads a clock. Instants are timezone-aware
``datetime`` in UTC. The ledger's clock (`daybook.ledger`) decides which runs are due; the machine's
clock only times waits, polls and other local steps of a process.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """A source of the current time that can also wait."""

    def now(self) -> datetime:
        """Return the current instant in UTC."""
        ...

    async def wait_until(self, instant: datetime) -> None:
        """Return at ``instant`` or later, never earlier; if it has passed, return at once."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    async def wait_until(self, instant: datetime) -> None:
        import asyncio

        # A sleep may end slightly early, and the clock may be adjusted: check after each sleep.
        while (remaining := (instant - self.now()).total_seconds()) > 0:
            await asyncio.sleep(remaining)


SYSTEM_CLOCK = SystemClock()
