"""The task scheduler's cycle, run by the leader.

It decides by the ledger alone. It reads agents' capabilities from Prefect when it is to request a
worker, and notifies Prefect of starving task runs. Sessions are woken even if Prefect is
unreachable.
"""

from __future__ import annotations

from functools import partial

from prefect.client.orchestration import PrefectClient

from daybook.agents import documents
from daybook.ledger.engine import Ledger
from daybook.tasks import escalation, notifier
from daybook.tasks.scheduler import Scheduler


def scheduler(ledger: Ledger, client: PrefectClient) -> Scheduler:
    """Return the scheduler of one leader; ``client`` checks the leadership before each write."""
    return Scheduler(
        ledger,
        ladder=escalation.load_policy,
        sink=notifier.prefect_notifier(client),
        capabilities_of=partial(documents.capabilities, client),
    )
