"""Delivery of a run's callbacks and messages by its own process, and their status in Prefect's UI.

::

    finished ─┬► nothing to send
              ├► callbacks: sent within `SEND_TIMEOUT_SECONDS` ─► shown in the run's artifact
              └► messages to channels, and callbacks that were not sent by then:
                 the leader's keeper sends them ─► shown in a later artifact

A run ends in Prefect when its process ends. So a slow receiver must not keep the process active,
least of all until the keeper (`Timing.own_state_limit`) or the worker ends the process. When the
time is over, the process releases an unfinished callback, and the keeper sends the callback again
under the same id. The unfinished try counts neither as an attempt nor as a failure of the
destination. A message to a channel has no id, so it could arrive twice if it were cut off. So the
keeper sends it within seconds, unless the channel is local, such as a file. A direct call may be
the only process, so it also calls its listeners and sends everything; each of these two steps may
take about a minute.

The process only logs a failure, because the outbox in the ledger keeps the unsent messages.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING
from uuid import UUID

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactCreate
from slugify import slugify

from daybook import registry
from daybook.delivery import history
from daybook.delivery.outbox import LISTENER
from daybook.execution import artifact
from daybook.jobs import store
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Delivery, Outcome
from daybook.ledger.tables import JobRow, OutboxRow, RunRow
from daybook.prefect import occurrence
from daybook.prefect.address import ui_address
from daybook.runs import steps
from daybook.runs.claim_requests import Granted

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

log = logging.getLogger(__name__)

SEND_TIMEOUT_SECONDS = 4.0
"""Seconds that a run's process may spend on sending; recording the results takes a moment more."""
DIRECT_SEND_TIMEOUT_SECONDS = 60.0
"""Seconds that a direct call may spend on sending: longer than any single request."""


async def send_pending(ledger: Ledger, run_id: str, *, alone: bool) -> Sequence[OutboxRow]:
    """Send a run's pending callbacks and messages; return its outbox rows with their status.

    The result includes alerts, but of the listener calls only the failed ones. ``alone`` means that
    the run is a direct call, which also calls its listeners. Log an error instead of raising it;
    the result then has the rows that were read before the error, if any.
    """
    rows: Sequence[OutboxRow] = ()
    try:
        if alone:
            await _call_listeners(ledger, run_id)
        rows = await _rows_of(ledger, run_id)
        if all(row.status != Delivery.PENDING for row in rows):
            return rows
        # A late import, because it loads all channels, and most runs send nothing.
        from daybook.delivery.outgoing import dispatch_outgoing

        with suppress(TimeoutError):
            timeout = DIRECT_SEND_TIMEOUT_SECONDS if alone else SEND_TIMEOUT_SECONDS
            async with asyncio.timeout(timeout), get_client() as client:
                holder = occurrence.current_holder()
                await dispatch_outgoing(
                    ledger, client, holder, run_id=run_id, hurried=not alone, ui=ui_address()
                )
        return await _rows_of(ledger, run_id)
    except Exception as error:
        reason = str(error) or type(error).__name__
        log.warning(
            "messages of the run are not sent yet: %s", reason, extra={"action": "delivery_delayed"}
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
    """Return a run's callbacks, messages, alerts and failed listener calls."""
    async with ledger.read() as session:
        rows = await history.list_for_run(session, run_id)
    return [row for row in rows if row.purpose != LISTENER or row.status == Delivery.FAILED]


async def publish_delivery(ledger: Ledger, client: PrefectClient, run_id: str) -> None:
    """Publish the delivery status of all outbox rows about a run in Prefect's UI.

    If the run has a Prefect run and outbox rows, each call creates a further artifact; the run's
    state does not change. If Prefect refuses the artifact, log the error. Raise
    `LedgerUnreachable`, and the client's errors if Prefect is unreachable or responds with a status
    of 500 or more.
    """
    async with ledger.read() as session:
        run = await session.get(RunRow, run_id)
        job = await session.get(JobRow, run.job_id) if run and run.job_id else None
        rows = await history.list_for_run(session, run_id)
    if run is None or run.flow_run_id is None or not rows:
        return
    made = ArtifactCreate(
        key=f"{slugify(job.slug) if job else 'direct-call'}-delivery",
        type="markdown",
        description=f"delivery: {run.delivery}",
        data=artifact.render_delivery(job.name if job else "direct call", run, rows),
        flow_run_id=UUID(run.flow_run_id),
    )
    try:
        await client.create_artifact(made)
    except httpx.HTTPStatusError as error:
        if error.response.is_server_error:
            raise
        log.warning("cannot create the artifact: %s", error, extra={"action": "artifact_failed"})


async def publish_artifact(ledger: Ledger, client: PrefectClient, run_id: str) -> None:
    """Create the artifact of an ended run whose process was ended before it could create one.

    Log an error instead of raising it, because the ledger has the outcome.
    """
    try:
        async with ledger.read() as session:
            row = await session.get(RunRow, run_id)
            job = await store.get_readable(session, row.job_id) if row else None
            made_steps = await steps.of_run(session, run_id)
        if row is None or row.flow_run_id is None:
            return
        granted = Granted(
            row.id,
            row.fence,
            row.parameters,
            row.occurrence,
            row.due,
            row.trigger,
            job,
            kind=row.kind,
            queued_at=row.queued_at,
        )
        outcome = Outcome(
            row.state,
            row.reason,
            row.output,
            error=row.error,
            agent=row.agent,
            model=row.model,
            usage=row.usage,
        )
        seconds, rows = artifact.duration_seconds(row), await _rows_of(ledger, run_id)
        made = ArtifactCreate(
            key=artifact.key(granted),
            type="markdown",
            description=artifact.description(granted, outcome),
            data=artifact.render(granted, outcome, row.attempts, rows, seconds, steps=made_steps),
            flow_run_id=UUID(row.flow_run_id),
        )
        await client.create_artifact(made)
    except Exception as error:
        log.warning("cannot create the artifact: %s", error, extra={"action": "artifact_failed"})
