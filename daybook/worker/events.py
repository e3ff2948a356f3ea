"""The pool's events: what is scheduled, and what is ended in Prefect, heard within milliseconds."""

from __future__ import annotations

import asyncio
import logging
import time
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
CLOSED_WITHIN = 1.0


async def listen(pool_id: UUID, heard: Callable[[str, str], Awaitable[None]]) -> NoReturn:
    """Call ``heard`` with a flow run's id and the name of its new state, until cancelled."""
    only = EventFilter(
        event=EventNameFilter(prefix=[_PREFIX]),
        any_resource=EventAnyResourceFilter(id=[f"prefect.work-pool.{pool_id}"]),
    )
    wait = 1.0
    while True:
        began = time.monotonic()
        hearing = asyncio.create_task(_hear(only, heard))
        try:
            await asyncio.wait({hearing})
        finally:
            # Closing a stream may wait for the server's answer, and must not hold up who stops:
            # asked a second time it lets go.
            while not hearing.done():
                hearing.cancel()
                await asyncio.wait({hearing}, timeout=CLOSED_WITHIN)
        # The poll goes on without it.
        why = None if hearing.cancelled() else hearing.exception()
        log.info("no events: %r", why, extra={"action": "events_away"})
        wait = 1.0 if time.monotonic() - began > LONGEST_WAIT else min(wait * 2, LONGEST_WAIT)
        await asyncio.sleep(wait)


async def _hear(only: EventFilter, heard: Callable[[str, str], Awaitable[None]]) -> None:
    async with get_events_subscriber(filter=only, reconnection_attempts=0) as stream:
        async for event in stream:
            flow_run_id = event.resource.id.removeprefix(_PREFIX)
            await heard(flow_run_id, event.event.removeprefix(_PREFIX))
