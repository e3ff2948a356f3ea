"""Observe: what was edited in Prefect is in the ledger (requirement 52).

Edits of a schedule emit no event and touch no deployment, so nothing but a look at all of them
finds one: all deployments of our flows are listed, and what is on both sides as it was in agreement
is passed over (`daybook.prefect.fingerprints`). What is not, is brought into agreement as `daybook sync` does:
taken over, adopted, switched off where it was deleted, in conflict.

A pass that is cut off anywhere is begun again as a whole; what it did stays done.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from daybook.keeper.cost import Counted, Metered
from daybook.ledger.engine import Ledger
from daybook.prefect import reconcile
from daybook.prefect.fingerprints import Seen
from daybook.prefect.report import Report

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

log = logging.getLogger(__name__)

MOST_SECONDS = 20.0
"""How long a pass goes on to bring jobs into agreement; what is left is the next one's."""


@dataclass(frozen=True)
class Observed:
    """``jobs`` are the ids of those of which the ledger has all that was edited before ``began``,
    by the ledger's clock. A job that is not among them was not reached.

    ``requests`` went to Prefect; ``cpu_seconds`` is what the pass took of its thread.
    """

    began: datetime
    jobs: frozenset[str]
    report: Report
    requests: int
    cpu_seconds: float


class Observer:
    """Looks again and again, and remembers what it saw: one for the life of a process."""

    def __init__(self) -> None:
        self._seen = Seen()

    async def look(
        self, ledger: Ledger, client: PrefectClient, *, most_seconds: float = MOST_SECONDS
    ) -> Observed:
        """One pass. Raises what a Prefect or a ledger raises that is away."""
        began, counted = ledger.now(), Counted(client)
        work = Metered(
            reconcile.everything(ledger, counted.as_client, self._seen, most_seconds=most_seconds)
        )
        report = await work
        seen = Observed(began, frozenset(report.observed), report, counted.requests, work.seconds)
        log.debug(
            "observed %d jobs with %d requests and %.3f s of CPU",
            len(seen.jobs),
            seen.requests,
            seen.cpu_seconds,
            extra={"action": "observed"},
        )
        return seen
