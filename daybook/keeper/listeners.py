"""Listener service: the leader calls listeners with outcomes.

The service stores the names of the installed listeners in the ledger, so that the process that
records an outcome can queue calls for them (`daybook.delivery.listeners`). If no listener is
installed, the service runs one cycle a minute. The service has its own loop, so that a hanging
listener delays no callback.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from daybook.delivery import listener_calls, listeners
from daybook.ledger.engine import Ledger

BUSY_INTERVAL_SECONDS = 0.5
"""Interval after a cycle that called a listener."""
NO_LISTENERS_INTERVAL_SECONDS = 60.0
"""Interval while no listener is installed."""
ANNOUNCE_INTERVAL_SECONDS = 3600.0
"""Interval at which the service writes the names of the installed listeners to the ledger again."""
MAX_CLAIMING_SECONDS = 45.0
"""How long one cycle starts calls; a call that has started may take as long again."""


@dataclass
class ListenersState:
    """State between two cycles: the listeners' names, and the time of their last announcement.

    ``announced_at`` is a monotonic time in seconds; None before the first announcement.
    """

    names: list[str] = field(default_factory=list)
    announced_at: float | None = None


async def call_listeners(ledger: Ledger, holder: str, memory: ListenersState) -> float | None:
    """Call listeners with the outcomes that are due; return the seconds until the next cycle.

    None stands for `Timing.listener_interval`. Raise `LedgerUnreachable`.
    """
    if (
        memory.announced_at is None
        or time.monotonic() - memory.announced_at > ANNOUNCE_INTERVAL_SECONDS
    ):
        memory.names = await listener_calls.load_names()
        await listeners.announce(ledger, memory.names)
        memory.announced_at = time.monotonic()
    if not memory.names:
        return NO_LISTENERS_INTERVAL_SECONDS
    called = await listener_calls.call_listeners(
        ledger, holder, memory.names, claims_for=MAX_CLAIMING_SECONDS
    )
    return BUSY_INTERVAL_SECONDS if called else None
