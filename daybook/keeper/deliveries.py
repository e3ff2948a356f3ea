"""Delivery service: the leader sends the outbox's callbacks and messages.

The process that records an outcome sends its messages at once. This service sends those that it did
not get to, those that have to be retried, and those that other services queued. The next cycle
follows from when the next row is due: one indexed query.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from prefect.client.orchestration import PrefectClient

from daybook.delivery import outbox, sending
from daybook.delivery.dispatcher import DispatchResult
from daybook.delivery.outgoing import dispatch_outgoing
from daybook.execution import delivery
from daybook.ledger.engine import Ledger

BUSY_INTERVAL_SECONDS = 1.0
"""Interval while a row is due within `LOOKAHEAD_SECONDS`."""
LOOKAHEAD_SECONDS = 5.0
UNREACHABLE_INTERVAL_SECONDS = 10.0
"""Interval while Prefect cannot be asked for a token or for a channel."""
MAX_CLAIMING_SECONDS = 45.0
"""How long one cycle claims rows; a try that it has started may take as long again."""
MAX_SHOWN_PER_CYCLE = 20
"""Runs whose delivery results one cycle shows in Prefect's UI."""
MAX_UNSHOWN = 1000
"""Runs that may wait to be shown; the delivery results of further ones are in the ledger alone."""


@dataclass
class DeliveriesState:
    """State of the service between two cycles: the runs whose delivery results are still to be
    shown.
    """

    ended: dict[str, None] = field(default_factory=dict)

    def note(self, runs: Iterable[str]) -> None:
        for run in runs:
            if len(self.ended) < MAX_UNSHOWN:
                self.ended[run] = None

    def some(self) -> list[str]:
        return list(self.ended)[:MAX_SHOWN_PER_CYCLE]

    def forget(self, run: str) -> None:
        del self.ended[run]


async def send_due(
    ledger: Ledger, client: PrefectClient, holder: str, memory: DeliveriesState
) -> float | None:
    """Send the due rows under a lease of ``holder``; return the seconds until the next cycle,
    or None for `Timing.delivery_interval`.

    Raises `LedgerUnreachable`. The runs that are still to be shown are kept then, and while Prefect
    is unreachable.
    """
    due, now = await sending.next_due(ledger, outbox.is_outgoing), ledger.now()
    sent = DispatchResult()
    if due is not None and due <= now:
        try:
            await dispatch_outgoing(
                ledger, client, holder, claims_for=MAX_CLAIMING_SECONDS, sent=sent
            )
        finally:
            memory.note(sent.ended)
    if sent.away:
        return UNREACHABLE_INTERVAL_SECONDS
    for run in memory.some():
        await delivery.publish_delivery(ledger, client, [run])
        memory.forget(run)
    if sent.held:
        return UNREACHABLE_INTERVAL_SECONDS
    if memory.ended or (due is not None and (due - now).total_seconds() <= LOOKAHEAD_SECONDS):
        return BUSY_INTERVAL_SECONDS
    return None
