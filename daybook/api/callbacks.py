"""Operations on callbacks and messages: list, show, retry.

They work without Prefect: the ledger holds the outbox, and the keeper sends it.
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
"""The states of a delivery; a suppressed one was withdrawn before it was sent."""


async def list_callbacks(
    status: str | None = None, job: str | None = None, limit: int = 50
) -> list[dict[str, Any]]:
    """Return callbacks and messages, newest first, as `views.delivery`.

    ``job`` selects those of one job, even a removed one. Raise `InvalidInput` for an
    unknown status, `NotFound` for the job.
    """
    if status is not None and status not in STATES:
        raise InvalidInput(
            "status", f'"{status}" is not a delivery status', f"use {', '.join(STATES)}"
        )
    async with open_ledger() as ledger, ledger.read() as session:
        job_id = (await store.find(session, job, archived=True)).id if job else None
        rows = await history.recent(session, status=status, job_id=job_id, limit=limit)
        return [views.delivery(each, await job_of(session, each)) for each in rows]


async def show(ref: str) -> dict[str, Any]:
    """Return one delivery with its content and attempts, by id or unique id prefix.

    Add `subject`, `body`, `tries` (the latest `{"at", "seconds", "status_code", "error"}`, oldest
    first) and `paused_until`: the time of the next attempt for its destination, if the destination
    failed often. Raise `NotFound`, `Ambiguous`.
    """
    async with open_ledger() as ledger, ledger.read() as session:
        row = await history.find(session, ref)
        job, lane = await job_of(session, row), await session.get(LaneRow, row.lane)
    paused_until = lane.paused_until if lane and row.status == Delivery.PENDING else None
    return views.delivery(row, job) | {
        "subject": row.subject,
        "body": row.body,
        "tries": [
            each | {"at": views.utc_text(datetime.fromisoformat(each["at"]))} for each in row.tries
        ],
        "paused_until": views.utc_text(paused_until),
    }


async def retry(refs: Sequence[str] = (), *, failed: bool = False) -> int:
    """Retry deliveries now: a failed one starts over, a pending one stops waiting.

    With ``failed``, retry all that failed. Return the number of deliveries to be tried. Raise
    `NotFound`, `Ambiguous`, and `InvalidInput` for one that was delivered or withdrawn; none is
    retried then.
    """
    if bool(refs) is failed:
        raise InvalidInput(
            "failed", "requires either ids or --failed", "`daybook callbacks list` shows the ids"
        )
    async with open_ledger() as ledger:
        async with ledger.read() as session:
            rows = [await history.find(session, ref) for ref in refs]
        for each in rows:
            if each.status not in (Delivery.PENDING, Delivery.FAILED):
                raise InvalidInput(
                    "id", f"{each.id} was {each.status}", "retry only pending and failed ones"
                )
        return await sending.retry(ledger, [each.id for each in rows] if refs else None)


async def job_of(session: AsyncSession, row: OutboxRow) -> JobRow | None:
    """Return the job of the delivery, even if it was removed; None for a direct call."""
    return await session.get(JobRow, row.job_id) if row.job_id else None
