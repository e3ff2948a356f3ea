"""The work pool's events: runs that Prefect scheduled, and runs that ended in Prefect."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NoReturn
from uuid import UUID

from prefect.events import Event
from prefect.events.filters import EventAnyResourceFilter, EventFilter, EventNameFilter

from daybook.keeper import event_stream

_PREFIX = "prefect.flow-run."
SCHEDULED_STATE_NAMES = {
    "Scheduled",
    "AwaitingConcurrencySlot",
    "AwaitingRetry",
    "Late",
    "Resuming",
}
"""Names of the states that make a run due."""
ENDED_STATE_NAMES = {"Completed", "Failed", "Crashed", "Cancelled", "Cancelling", "TimedOut"}
"""Names of the states that end a run."""


async def listen(pool_id: UUID, heard: Callable[[str, str], Awaitable[None]]) -> NoReturn:
    """Call ``heard`` with a flow run's id and the name of its new state, until cancelled."""
    pool_events = EventFilter(
        event=EventNameFilter(prefix=[_PREFIX]),
        any_resource=EventAnyResourceFilter(id=[f"prefect.work-pool.{pool_id}"]),
    )

    async def changed(event: Event) -> None:
        flow_run_id = event.resource.id.removeprefix(_PREFIX)
        await heard(flow_run_id, event.event.removeprefix(_PREFIX))

    await event_stream.listen(pool_events, changed)
    raise AssertionError("it ends by cancelling only")
