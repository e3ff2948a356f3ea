"""The observer, which compares all jobs with Prefect and imports Prefect's edits into the ledger.

Prefect emits no event when a schedule is edited, and does not change the deployment's update time.
So each cycle lists all deployments of Daybook's flows, and skips the deployments that have changed
neither in the ledger nor in Prefect since the last reconciliation (`daybook.prefect.fingerprints`).
The cycle reconciles the others as `daybook sync` does: it imports edits, adopts new deployments,
disables jobs whose deployment was deleted, and records conflicts.

After an interruption, the next cycle starts over; the changes already made persist.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from prefect.client.orchestration import PrefectClient

from daybook.keeper.cost import CountingClient, MeteredCoroutine
from daybook.ledger.engine import Ledger
from daybook.prefect import reconcile
from daybook.prefect.fingerprints import Fingerprints
from daybook.prefect.report import ReconcileReport

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

log = logging.getLogger(__name__)

MAX_RECONCILE_SECONDS = 20.0
"""Time after which a cycle reconciles no further job; the next cycle continues."""


@dataclass(frozen=True)
class Observation:
    """Result of one cycle.

    ``jobs`` has the ids of the jobs for which the ledger has every edit made before ``began``
    (ledger time). The cycle did not reach the other jobs, or could not compare them. ``requests``
    is the number of requests to Prefect; ``cpu_seconds`` is the cycle's CPU time in its thread.
    """

    began: datetime
    jobs: frozenset[str]
    report: ReconcileReport
    requests: int
    cpu_seconds: float


async def observe(
    ledger: Ledger,
    client: PrefectClient,
    seen: Fingerprints,
    *,
    most_seconds: float = MAX_RECONCILE_SECONDS,
) -> Observation:
    """Run one cycle; ``seen`` has the fingerprints of the leader's current term.

    Errors of an unreachable Prefect or ledger propagate.
    """
    began, counted = ledger.now(), CountingClient(client)
    work = MeteredCoroutine(
        reconcile.reconcile_all(ledger, counted.as_client, seen, most_seconds=most_seconds)
    )
    report = await work
    observation = Observation(
        began, frozenset(report.observed), report, counted.requests, work.seconds
    )
    log.debug(
        "observed %d jobs with %d requests and %.3f s of CPU",
        len(observation.jobs),
        observation.requests,
        observation.cpu_seconds,
        extra={"action": "observed"},
    )
    return observation
