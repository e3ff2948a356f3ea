"""Drain: the outbox's callbacks and messages are sent, by the leader (requirement 31).

The process that settles a run sends what is to be told of it at once; this pass sends what it did
not get to, what has to be tried again, and what the keeper's own passes asked for. How soon it
looks again follows from when the next row is due: one query that an index answers.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from prefect.client.orchestration import PrefectClient

from daybook.delivery import dispatcher as outbox
from daybook.delivery import sending
from daybook.delivery.dispatcher import Sent
from daybook.delivery.outbox import is_sent
from daybook.execution import delivery
from daybook.ledger.engine import Ledger

SOON = 1.0
"""Seconds between two looks while something is due within `AHEAD`."""
IDLE = 2.0
"""The same while nothing is: what other processes ask for is not announced."""
AHEAD = 5.0
AWAY = 10.0
"""The same while Prefect cannot be asked for a token, or for a channel."""
CLAIMS_FOR = 45.0
"""Seconds in which one pass begins tries; each has its end as long after that at most."""
SHOWN = 20
"""Runs of which a pass says in Prefect's UI what became of their messages."""
REMEMBERED = 1000
"""Runs that wait to be shown; of more the ledger alone says what became of their messages."""


@dataclass
class Memory:
    """What a leader remembers: the runs that are still to be shown."""

    ended: dict[str, None] = field(default_factory=dict)

    def note(self, runs: Iterable[str]) -> None:
        for run in runs:
            if len(self.ended) < REMEMBERED:
                self.ended[run] = None

    def some(self) -> list[str]:
        return list(self.ended)[:SHOWN]

    def forget(self, run: str) -> None:
        del self.ended[run]


async def drain(ledger: Ledger, client: PrefectClient, holder: str, memory: Memory) -> float:
    """Send what is due, by a lease of ``holder``; the seconds until the next look.

    Raises `LedgerUnreachable`; what is to be shown is remembered then, as while Prefect is away.
    """
    due, now = await sending.next_due(ledger, is_sent), ledger.now()
    sent = Sent()
    if due is not None and due <= now:
        try:
            await outbox.drain(ledger, client, holder, claims_for=CLAIMS_FOR, sent=sent)
        finally:
            memory.note(sent.ended)
    if sent.away:
        return AWAY
    for run in memory.some():
        await delivery.show(ledger, client, [run])
        memory.forget(run)
    if sent.held:
        return AWAY
    if memory.ended or (due is not None and (due - now).total_seconds() <= AHEAD):
        return SOON
    return IDLE
