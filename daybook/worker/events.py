"""The pool's events: what is scheduled, and what is ended in Prefect, heard within milliseconds."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import NoReturn
from uuid import UUID

from prefect.events.clients import get_events_subscriber
from prefect.events.filters import EventAnyResourceFilter, EventFilter, EventNameFilter

log = logging.getLogger(__name__)

_PREFIX = "prefect.flow-run."
SCHEDULED = {"Scheduled", "AwaitingConcurrencySlot", "AwaitingRetry", "Late", "Resuming"}
"""The names of states that make a run due."""
ENDED = {"Completed", "Failed", "Crashed", "Cancelled", "Cancelling", "TimedOut"}
"""The names of states that end a run."""
LONGEST_WAIT = 30.0
"""Seconds: the longest pause before a broken stream is opened again."""


async def listen(pool_id: UUID, heard: Callable[[str, str], Awaitable[None]]) -> NoReturn:
    """Call ``heard`` with a flow run's id and the name of its new state, until cancelled."""
    only = EventFilter(
        event=EventNameFilter(prefix=[_PREFIX]),
        any_resource=EventAnyResourceFilter(id=[f"prefect.work-pool.{pool_id}"]),
    )
    wait = 1.0
    while True:
        try:
            async with get_events_subscriber(filter=only, reconnection_attempts=0) as stream:
                wait = 1.0
                async for event in stream:
                    flow_run_id = event.resource.id.removeprefix(_PREFIX)
                    await heard(flow_run_id, event.event.removeprefix(_PREFIX))
        except Exception as error:
            # The poll goes on without it.
            log.info("no events: %s", error, extra={"action": "events_away"})
        await asyncio.sleep(wait)
        wait = min(wait * 2, LONGEST_WAIT)
