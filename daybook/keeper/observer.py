"""The observer: imports edits made in Prefect into the ledger.

An edit of a schedule emits no event and does not touch the deployment, so each cycle lists all
deployments of our flows and skips those whose two sides still match the last agreed state
(`daybook.prefect.fingerprints`). The others are reconciled as by `daybook sync`: imported, adopted,
disabled if deleted in Prefect, or in conflict.

An interrupted cycle is repeated as a whole; the jobs it reconciled stay reconciled.
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
"""How long a cycle starts to reconcile jobs; the next cycle does the rest."""


@dataclass(frozen=True)
class Observation:
    """``jobs`` are the ids of the jobs for which the ledger has every edit made before ``began``
    (ledger time). A job that is missing there was not reached.

    ``requests`` counts the requests to Prefect; ``cpu_seconds`` is the cycle's CPU time in its
    thread.
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
    """Run one cycle; ``seen`` are the fingerprints of one term of a leader.

    Raises the errors of a Prefect or a ledger that cannot be reached.
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
