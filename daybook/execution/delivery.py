"""Delivery of a run's callbacks and messages by its own process, and its display in Prefect's UI.

::

    finished ─► nothing to send                            nothing is done
             └► callbacks at once, within `SEND_TIMEOUT_SECONDS` ─► the run's artifact shows them
                          └ messages to channels, and what is not sent by then or after a kill:
                            the leader's keeper sends it ─► a later artifact shows it

A run ends in Prefect when its process does, so a slow receiver must not keep it active, nor for so
long that the keeper (`Timing.own_state_limit`) or the worker ends it. An attempt that is cut for
this reason is given back, and the keeper sends it again under the same id; it counts neither as an
attempt nor as a failure of the destination. A message to a channel has no id, so it would arrive
twice: the keeper sends it, within a second, unless its channel is a file or the like. A direct call
may be the only process, so it sends everything and takes the time that this needs.

Any failure here is logged and changes nothing: the outbox is in the ledger.
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

SEND_TIMEOUT_SECONDS = 4.0
"""Seconds that a run's process spends on sending; recording the results takes a moment more."""
DIRECT_SEND_TIMEOUT_SECONDS = 60.0
"""The same for a direct call: longer than any single attempt."""


async def send_pending(ledger: Ledger, run_id: str, *, alone: bool) -> Sequence[OutboxRow]:
    """Send a run's pending messages; return its callbacks and messages with their current status.

    ``alone`` means that the run is a direct call.
    """
    rows: Sequence[OutboxRow] = ()
    try:
        if alone:
            await _call_listeners(ledger, run_id)
        rows = await _rows_of(ledger, run_id)
        if all(row.status != Delivery.PENDING for row in rows):
            return rows
        # A late import: it loads all channels, and most runs send nothing.
        from daybook.delivery.outgoing import dispatch_outgoing

        with suppress(TimeoutError):
            timeout = DIRECT_SEND_TIMEOUT_SECONDS if alone else SEND_TIMEOUT_SECONDS
            async with asyncio.timeout(timeout), get_client() as client:
                holder = occurrence.current_holder()
                await dispatch_outgoing(ledger, client, holder, run_id=run_id, hurried=not alone)
        return await _rows_of(ledger, run_id)
    except Exception as error:
        reason = str(error) or type(error).__name__
        log.warning(
            "messages of the run are not sent yet: %s", reason, extra={"action": "outbox_away"}
        )
    return rows


async def _call_listeners(ledger: Ledger, run_id: str) -> None:
    if names := registry.known_names(registry.LISTENERS):
        from daybook.delivery.listener_calls import call_listeners

        await call_listeners(
            ledger,
            occurrence.current_holder(),
            names,
            run_id=run_id,
            claims_for=DIRECT_SEND_TIMEOUT_SECONDS,
        )


async def _rows_of(ledger: Ledger, run_id: str) -> list[OutboxRow]:
    """Return a run's callbacks, messages and failed listener calls."""
    async with ledger.read() as session:
        rows = await history.list_for_run(session, run_id)
    return [row for row in rows if row.purpose != LISTENER or row.status == Delivery.FAILED]


async def publish_delivery(ledger: Ledger, client: PrefectClient, run_ids: Iterable[str]) -> None:
    """Publish the delivery status of these runs' callbacks and messages in Prefect's UI.

    It is an artifact of the flow run, in addition to the run's own; no state is forced for it.
    """
    for run_id in run_ids:
        async with ledger.read() as session:
            run = await session.get(RunRow, run_id)
            job = await session.get(JobRow, run.job_id) if run and run.job_id else None
            rows = await history.list_for_run(session, run_id)
        if run is None or run.flow_run_id is None or not rows:
            continue
        made = ArtifactCreate(
            key=f"{slugify(job.slug) if job else 'direct-call'}-delivery",
            type="markdown",
            description=f"delivery: {run.delivery}",
            data=artifact.render_delivery(job.name if job else "direct call", run, rows),
            flow_run_id=UUID(run.flow_run_id),
        )
        try:
            await client.create_artifact(made)
        except Exception as error:
            log.warning(
                "cannot create the artifact: %s", error, extra={"action": "artifact_failed"}
            )
