"""What can be asked of callbacks and messages: what became of each, and to try one again.

Needs no Prefect: what is to be sent stands in the ledger, and the keeper sends it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from daybook.api import views
from daybook.delivery import history, sending
from daybook.errors import InvalidInput
from daybook.jobs import store
from daybook.ledger.engine import open_ledger
from daybook.ledger.states import Delivery
from daybook.ledger.tables import JobRow, LaneRow, OutboxRow

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

STATES = (Delivery.PENDING, Delivery.DELIVERED, Delivery.FAILED, Delivery.SUPPRESSED)
"""What one of them can be; suppressed is one that was withdrawn before it was sent."""


async def list_callbacks(
    status: str | None = None, job: str | None = None, limit: int = 50
) -> list[dict[str, Any]]:
    """Callbacks and messages, newest first, as `views.delivery`; of one job, also a removed one.

    Raises `InvalidInput` for a status that there is not, `NotFound` for the job.
    """
    if status is not None and status not in STATES:
        raise InvalidInput("status", f'"{status}" is none', f"legal: {', '.join(STATES)}")
    async with open_ledger() as ledger, ledger.read() as session:
        of_job = (await store.find(session, job, archived=True)).id if job else None
        found = await history.recent(session, status=status, job_id=of_job, limit=limit)
        return [views.delivery(each, await job_of(session, each)) for each in found]


async def show(ref: str) -> dict[str, Any]:
    """One of them, by id or its unique beginning: as in the list, and what was sent, each try.

    Adds `subject`, `body`, `tries` (`{"at", "seconds", "status_code", "error"}`, oldest first, the
    last of them) and `paused_until`: when the next try to its destination is made, if that failed
    often. Raises `NotFound`, `Ambiguous`.
    """
    async with open_ledger() as ledger, ledger.read() as session:
        row = await history.find(session, ref)
        job, lane = await job_of(session, row), await session.get(LaneRow, row.lane)
    held_back = lane.paused_until if lane and row.status == Delivery.PENDING else None
    return views.delivery(row, job) | {
        "subject": row.subject,
        "body": row.body,
        "tries": [
            each | {"at": views.utc(datetime.fromisoformat(each["at"]))} for each in row.tries
        ],
        "paused_until": views.utc(held_back),
    }


async def retry(refs: Sequence[str] = (), *, failed: bool = False) -> int:
    """Try them again now: a failed one begins anew, a pending one waits no longer.

    With ``failed`` all that failed. Returns how many will be tried. Raises `NotFound`, `Ambiguous`,
    and `InvalidInput` for one that was delivered or withdrawn; none is tried then.
    """
    if bool(refs) is failed:
        raise InvalidInput(
            "failed", "name them, or say --failed", "`daybook callbacks list` shows them"
        )
    async with open_ledger() as ledger:
        async with ledger.read() as session:
            found = [await history.find(session, ref) for ref in refs]
        for each in found:
            if each.status not in (Delivery.PENDING, Delivery.FAILED):
                raise InvalidInput("id", f"{each.id} was {each.status}", "leave it out")
        return await sending.retry(ledger, [each.id for each in found] if refs else None)


async def job_of(session: AsyncSession, row: OutboxRow) -> JobRow | None:
    """The job that is told of, also a removed one; None for a direct call."""
    return await session.get(JobRow, row.job_id) if row.job_id else None
