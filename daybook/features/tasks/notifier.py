"""Interface that reports starving runs, and its implementation with Prefect events.

The id of an event is derived from the run and its last claim. So if the event is sent again after
an error or after the death of a process, it has the same id.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from daybook.features.tasks.model import PRIORITIES

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

STARVED_EVENT = "task.starved"
EVENT_REJECTED_STATUSES = frozenset({400, 409, 413, 422})
"""HTTP statuses that reject a single event. Other errors concern the client or all of Prefect."""


@dataclass(frozen=True)
class StarvingRun:
    """A starving run, as the notifier reports it. ``at`` and ``queued_at`` are in UTC."""

    ledger_id: str
    run_id: str
    fence: int
    task_id: str
    title: str
    priority: int
    capabilities: tuple[str, ...]
    queued_at: datetime
    cycles: int
    at: datetime

    @property
    def event_id(self) -> uuid.UUID:
        """Return the id of the event. It is the same for a run until a session claims the run."""
        name = f"daybook:{self.ledger_id}:{self.run_id}:{self.fence}:{STARVED_EVENT}"
        return uuid.uuid5(uuid.NAMESPACE_URL, name)


class EventRejected(Exception):
    """Prefect rejected this event because of its content. It may accept other events."""


Notifier = Callable[[StarvingRun], Awaitable[None]]
"""Function that reports one starving run.

If it raises an exception, the run was not reported, and a later cycle tries again. After
`EventRejected`, no cycle tries again, because Prefect rejected this event.
"""


def event_body(starving: StarvingRun) -> dict[str, Any]:
    """Return the event as Prefect's API expects it."""
    return {
        "id": str(starving.event_id),
        "occurred": starving.at.isoformat(),
        "event": STARVED_EVENT,
        "resource": {
            "prefect.resource.id": f"daybook.task-run.{starving.run_id}",
            "prefect.resource.name": starving.title,
            "daybook.ledger.id": starving.ledger_id,
        },
        "payload": {
            "task_id": starving.task_id,
            "run_id": starving.run_id,
            "title": starving.title,
            "priority": PRIORITIES[starving.priority],
            "capabilities": list(starving.capabilities),
            "queued_at": starving.queued_at.isoformat(),
            "cycles": starving.cycles,
        },
    }


def prefect_notifier(client: PrefectClient) -> Notifier:
    """Return a notifier that sends Prefect events.

    The notifier raises `EventRejected`, and the exceptions of the client.
    """
    # Import Prefect here, because the import takes long, and most users of this module do not need
    # it.
    from prefect.exceptions import PrefectHTTPStatusError

    async def send(starving: StarvingRun) -> None:
        try:
            await client._client.post("/events", json=[event_body(starving)])
        except PrefectHTTPStatusError as error:
            if error.response.status_code not in EVENT_REJECTED_STATUSES:
                raise
            raise EventRejected(f"HTTP {error.response.status_code}") from error

    return send
