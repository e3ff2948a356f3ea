"""Listener service: the leader calls listeners with outcomes.

The ledger holds the names of the installed listeners, so that the process that records an outcome
queues calls for them (`daybook.delivery.listeners`). Without listeners this costs one cycle a
minute. It has a loop of its own: a listener that hangs delays no callback.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from daybook.delivery import listener_calls, listeners
from daybook.ledger.engine import Ledger

SOON = 0.5
"""Interval after a cycle that called a listener."""
IDLE = 2.0
"""Interval after a cycle without calls."""
NONE = 60.0
"""Interval while no listener is installed."""
ANNOUNCED = 3600.0
"""How often the names of the installed listeners are written to the ledger again."""
CLAIMS_FOR = 45.0
"""How long one cycle starts calls; a call that it has started may take as long again."""


@dataclass
class Memory:
    """State between two cycles: the installed listeners, and when they were announced."""

    names: list[str] = field(default_factory=list)
    announced_at: float | None = None


async def listen(ledger: Ledger, holder: str, memory: Memory) -> float:
    """Call listeners with due outcomes; return the seconds until the next cycle.

    Raises `LedgerUnreachable`.
    """
    if memory.announced_at is None or time.monotonic() - memory.announced_at > ANNOUNCED:
        memory.names = await listener_calls.here()
        await listeners.announce(ledger, memory.names)
        memory.announced_at = time.monotonic()
    if not memory.names:
        return NONE
    called = await listener_calls.listen(ledger, holder, memory.names, claims_for=CLAIMS_FOR)
    return SOON if called else IDLE
