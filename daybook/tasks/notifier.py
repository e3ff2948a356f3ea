"""Where it is told that a run starves: a port, and the one that is Prefect's events.

An event's id follows from the run and its claim: told again, after a failure or a kill whose answer
was lost, it is the same event to Prefect.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from daybook.tasks.model import PRIORITIES

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

EVENT = "task.starved"
OF_THE_EVENT = frozenset({400, 409, 413, 422})
"""Answers that are about what was sent; others are about who sends, or about Prefect."""


@dataclass(frozen=True)
class Starving:
    """A run that starves, as it is told. ``at`` and ``queued_at`` are in UTC."""

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
        """The same for the same run until somebody claims it."""
        name = f"daybook:{self.ledger_id}:{self.run_id}:{self.fence}:{EVENT}"
        return uuid.uuid5(uuid.NAMESPACE_URL, name)


class NotTaken(Exception):
    """This one event was refused for what it is; others may be taken."""


Sink = Callable[[Starving], Awaitable[None]]
"""Tells of one; whatever it raises means that it was not told, and is told again. `NotTaken` says
nothing of the others.
"""


def event(starving: Starving) -> dict[str, Any]:
    """As Prefect takes an event."""
    return {
        "id": str(starving.event_id),
        "occurred": starving.at.isoformat(),
        "event": EVENT,
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


def of_prefect(client: PrefectClient) -> Sink:
    """Prefect's events. It raises `NotTaken`, and what the client raises."""
    # Importing Prefect takes long, and most of who reads this module needs none.
    from prefect.exceptions import PrefectHTTPStatusError

    async def tell(starving: Starving) -> None:
        try:
            await client._client.post("/events", json=[event(starving)])
        except PrefectHTTPStatusError as error:
            if error.response.status_code not in OF_THE_EVENT:
                raise
            raise NotTaken(f"HTTP {error.response.status_code}") from error

    return tell
