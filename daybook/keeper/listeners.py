"""Listen: listeners are told of outcomes, by the leader (requirement 35).

Which there are is announced in the ledger, so that whoever settles a run asks for them
(`daybook.delivery.listeners`). Where there are none this costs one look a minute. It has a loop of
its own: a listener that hangs holds up no callback.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from daybook.delivery import listener_calls, listeners
from daybook.ledger.engine import Ledger

SOON = 0.5
"""Seconds until the next look after one was told."""
IDLE = 2.0
"""The same where nothing could be told."""
NONE = 60.0
"""The same where nobody listens."""
ANNOUNCED = 3600.0
"""Seconds for which what was announced is left at that."""
CLAIMS_FOR = 45.0
"""Seconds in which one pass begins to tell; each has its end as long after that at most."""


@dataclass
class Memory:
    """What a leader remembers: who listens here, and when that was announced."""

    names: list[str] = field(default_factory=list)
    announced_at: float | None = None


async def listen(ledger: Ledger, holder: str, memory: Memory) -> float:
    """Tell listeners what is due; the seconds until the next look. Raises `LedgerUnreachable`."""
    if memory.announced_at is None or time.monotonic() - memory.announced_at > ANNOUNCED:
        memory.names = await listener_calls.here()
        await listeners.announce(ledger, memory.names)
        memory.announced_at = time.monotonic()
    if not memory.names:
        return NONE
    told = await listener_calls.listen(ledger, holder, memory.names, claims_for=CLAIMS_FOR)
    return SOON if told else IDLE
