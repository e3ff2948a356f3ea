"""Delivery service: the leader sends the callbacks and messages in the outbox.

The process that records an outcome tries to send its messages at once
(`daybook.execution.delivery`). This service sends the messages that the process did not send, the
retries, and the messages that other services queued. One indexed query finds when the next row is
due. If a row is due soon, the next cycle starts early.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from prefect.client.orchestration import PrefectClient

from daybook.delivery import sending
from daybook.delivery.dispatcher import DispatchResult
from daybook.delivery.outbox import is_outgoing
from daybook.delivery.outgoing import dispatch_outgoing
from daybook.execution import delivery
from daybook.ledger.engine import Ledger
from daybook.prefect.address import ui_address

BUSY_INTERVAL_SECONDS = 1.0
"""Interval while a row is due within `LOOKAHEAD_SECONDS`, or some results are not shown yet."""
LOOKAHEAD_SECONDS = 5.0
UNREACHABLE_INTERVAL_SECONDS = 10.0
"""Interval while Prefect, which stores tokens and channels, is unreachable or reports an error."""
MAX_CLAIMING_SECONDS = 45.0
"""How long one cycle claims rows; an attempt that has started may take as long again."""
MAX_SHOWN_PER_CYCLE = 20
"""Maximum number of runs whose delivery results one cycle shows in Prefect's UI."""
MAX_UNSHOWN = 1000
"""Maximum number of runs with results to show later; results of further runs are never shown."""


@dataclass
class DeliveriesState:
    """State between two cycles: the runs whose delivery results are not shown yet."""

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
    """Send the due rows under a lease of ``holder``; return the seconds until the next cycle.

    None stands for `Timing.delivery_interval`. Also show the delivery results of ended rows in
    Prefect's UI. While the ledger or Prefect is unreachable, the runs whose results are not shown
    yet stay in ``memory``. Raise `LedgerUnreachable`, and the client's errors if Prefect becomes
    unreachable before all results are shown.
    """
    due, now = await sending.next_due(ledger, is_outgoing), ledger.now()
    sent = DispatchResult()
    if due is not None and due <= now:
        try:
            await dispatch_outgoing(
                ledger,
                client,
                holder,
                claims_for=MAX_CLAIMING_SECONDS,
                sent=sent,
                ui=ui_address(),
            )
        finally:
            memory.note(sent.ended)
    if sent.prefect_unreachable:
        return UNREACHABLE_INTERVAL_SECONDS
    for run in memory.some():
        await delivery.publish_delivery(ledger, client, run)
        memory.forget(run)
    if sent.held:
        return UNREACHABLE_INTERVAL_SECONDS
    if memory.ended or (due is not None and (due - now).total_seconds() <= LOOKAHEAD_SECONDS):
        return BUSY_INTERVAL_SECONDS
    return None
