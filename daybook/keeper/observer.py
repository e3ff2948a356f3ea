"""The observer: compares all jobs with Prefect, and imports edits made there into the ledger.

Prefect emits no event when a schedule is edited, and does not change the deployment's update time.
So each cycle lists all deployments of Daybook's flows and skips those that have not changed on
either side since the last reconciliation (`daybook.prefect.fingerprints`). The others are
reconciled as by `daybook sync`: edits are imported, new deployments are adopted, jobs whose
deployment was deleted are disabled, and conflicts are recorded.

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
"""How long a cycle keeps starting to reconcile jobs; the next cycle does the rest."""


@dataclass(frozen=True)
class Observation:
    """Result of one cycle.

    ``jobs`` are the ids of the jobs for which the ledger has every edit made before ``began``
    (ledger time); the cycle did not reach the other jobs, or could not compare them. ``requests``
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
    """Run one cycle; ``seen`` are the fingerprints of the leader's term.

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
