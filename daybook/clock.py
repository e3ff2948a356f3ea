"""What time it is. Pure functions take instants; a clock stands only at a process's edge.

Instants are timezone-aware ``datetime`` in UTC. Due is judged by the ledger's clock
(`daybook.ledger`); this one is for the waits of a process.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Tells the time and waits for it."""

    def now(self) -> datetime:
        """This instant, in UTC."""
        ...

    async def wait_until(self, instant: datetime) -> None:
        """Return at ``instant`` or later, never earlier; at once if it has passed."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    async def wait_until(self, instant: datetime) -> None:
        import asyncio

        # A sleep may end a hair early, and the machine's clock may be set: look again each time.
        while (left := (instant - self.now()).total_seconds()) > 0:
            await asyncio.sleep(left)


SYSTEM = SystemClock()
