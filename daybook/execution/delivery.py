"""What was to be told of a run: sent by the process that settled it, and shown in Prefect's UI.

::

    settled ─► nothing was asked for                       nothing is done
           └─► callbacks at once, within `WITHIN` ─► the run's artifact says what became of it
                          └ messages to channels; what is not sent by then, stopped, killed:
                            the leader's keeper sends it ─► an artifact of its own says so

A run ends in Prefect when its process does: who answers slowly does not keep it at work, nor so
long that the keeper (`Timing.own_state_limit`) or the worker ends it. A try that is cut for it is
given back and sent again by the keeper, under the same id; it uses up no try and is no
destination's failure. A message to a channel has no id, so it would arrive twice: it is the
keeper's, who looks each second, unless it only goes to a file or the like. A direct call may be the
only process there is: it sends all, and takes the time that it takes.

Whatever fails here is logged and changes nothing: what is to be sent stands in the ledger.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactCreate
from slugify import slugify

from daybook import registry
from daybook.delivery import history
from daybook.delivery.outbox import LISTENER
from daybook.execution import artifact
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Delivery
from daybook.ledger.tables import JobRow, OutboxRow, RunRow
from daybook.prefect import occurrence

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

log = logging.getLogger(__name__)

WITHIN = 4.0
"""Seconds that a run's process gives to it; what came of it is written in a moment more."""
WITHIN_ALONE = 60.0
"""The same of a direct call: longer than any one try takes."""


async def at_once(ledger: Ledger, run_id: str, *, alone: bool) -> Sequence[OutboxRow]:
    """Send what is pending of a run; returns what was asked for, and what became of it by now.

    ``alone`` says that it is a direct call.
    """
    asked: Sequence[OutboxRow] = ()
    try:
        if alone:
            await _listened(ledger, run_id)
        asked = await _of(ledger, run_id)
        if all(row.status != Delivery.PENDING for row in asked):
            return asked
        # Only now: it brings the ways out with it, and most runs tell nobody.
        from daybook.delivery.dispatcher import drain

        with suppress(TimeoutError):
            within = WITHIN_ALONE if alone else WITHIN
            async with asyncio.timeout(within), get_client() as client:
                holder = occurrence.holder()
                await drain(ledger, client, holder, run_id=run_id, hurried=not alone)
        return await _of(ledger, run_id)
    except Exception as error:
        why = str(error) or type(error).__name__
        log.warning("not sent yet: %s", why, extra={"action": "outbox_away"})
    return asked


async def _listened(ledger: Ledger, run_id: str) -> None:
    if names := registry.here(registry.LISTENERS):
        from daybook.delivery.listener_calls import listen

        await listen(ledger, occurrence.holder(), names, run_id=run_id, claims_for=WITHIN_ALONE)


async def _of(ledger: Ledger, run_id: str) -> list[OutboxRow]:
    """What is told of a run: its callbacks and messages, and the listeners that failed."""
    async with ledger.read() as session:
        asked = await history.of_run(session, run_id)
    return [row for row in asked if row.purpose != LISTENER or row.status == Delivery.FAILED]


async def show(ledger: Ledger, client: PrefectClient, run_ids: Iterable[str]) -> None:
    """Say in Prefect's UI what has become of these runs' callbacks and messages by now.

    It is an artifact of the flow run, beside the one that the run made: a state is never forced.
    """
    for run_id in run_ids:
        async with ledger.read() as session:
            run = await session.get(RunRow, run_id)
            job = await session.get(JobRow, run.job_id) if run and run.job_id else None
            rows = await history.of_run(session, run_id)
        if run is None or run.flow_run_id is None or not rows:
            continue
        made = ArtifactCreate(
            key=f"{slugify(job.slug) if job else 'direct-call'}-delivery",
            type="markdown",
            description=f"delivery: {run.delivery}",
            data=artifact.of_delivery(job.name if job else "direct call", run, rows),
            flow_run_id=UUID(run.flow_run_id),
        )
        try:
            await client.create_artifact(made)
        except Exception as error:
            log.warning("no artifact: %s", error, extra={"action": "artifact_failed"})
