"""Tasks: the scheduler's cycle, by the leader (requirement 45).

It decides in the ledger alone; of Prefect it needs what agents can do, when a worker is to be asked
for, and is told of runs that starve. While Prefect is away sessions are woken all the same.
"""

from __future__ import annotations

from functools import partial

from prefect.client.orchestration import PrefectClient

from daybook.agents import documents
from daybook.ledger.engine import Ledger
from daybook.tasks import escalation, notifier
from daybook.tasks.scheduler import Scheduler


def scheduler(ledger: Ledger, client: PrefectClient) -> Scheduler:
    """That of one leader; ``client`` asks before it writes."""
    return Scheduler(
        ledger,
        ladder=escalation.here,
        sink=notifier.of_prefect(client),
        capabilities_of=partial(documents.capabilities, client),
    )
