"""Operations on deliveries (callbacks, messages, alerts, listener calls): list, show, retry.

The operations work without Prefect, because the outbox is in the ledger. The keeper sends the
messages of the outbox.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from daybook.api import authorization
from daybook.delivery import history, sending
from daybook.delivery.views import Notification, NotificationDetails
from daybook.errors import InvalidInput
from daybook.ledger.engine import open_ledger, reading
from daybook.ledger.states import Delivery
from daybook.ledger.tables import JobRow, OutboxRow, QueueRow

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

STATES = (Delivery.PENDING, Delivery.DELIVERED, Delivery.FAILED, Delivery.SUPPRESSED)
"""The states of a delivery.

`suppressed` means that Daybook withdrew the message before sending it.
"""


async def list_callbacks(
    status: str | None = None, job: str | None = None, limit: int = 50
) -> list[Notification]:
    """Return up to ``limit`` callbacks, messages, alerts and listener calls, newest first.

    ``job`` selects the deliveries of one job, which may have been removed. Wakes of live
    agents are not included. Raise `InvalidInput` for an unknown status, and `NotFound` or
    `Ambiguous` for the job.
    """
    if status is not None and status not in STATES:
        raise InvalidInput(
            "status", f'"{status}" is not a delivery status', f"use {', '.join(STATES)}"
        )
    async with reading() as session:
        job_id = (await authorization.find_job(session, job, archived=True)).id if job else None
        rows = await history.recent(session, status=status, job_id=job_id, limit=limit)
        return [Notification.of(each, await job_of(session, each)) for each in rows]


async def show(ref: str) -> NotificationDetails:
    """Return one delivery with its content and attempts. ``ref`` is its id or a unique id prefix.

    Raise `NotFound`, `Ambiguous`.
    """
    async with reading() as session:
        row = await history.find(session, ref)
        job, queue = await job_of(session, row), await session.get(QueueRow, row.queue)
    paused_until = queue.paused_until if queue and row.status == Delivery.PENDING else None
    return NotificationDetails.of(row, job, paused_until=paused_until)


async def retry(refs: Sequence[str] = (), *, failed: bool = False) -> int:
    """Make failed and pending deliveries due now, with new attempts; return their number.

    ``refs`` are ids or unique id prefixes. With ``failed``, retry all failed deliveries instead. A
    delivery that a process is sending now is not retried. Raise `NotFound` and `Ambiguous`. Raise
    `InvalidInput` for a delivery that was delivered or withdrawn, and if ``refs`` and ``failed``
    are both given or both missing. After an error, no delivery is retried.
    """
    if bool(refs) is failed:
        raise InvalidInput(
            "failed", "give either ids or --failed", "`daybook callbacks list` shows the ids"
        )
    async with open_ledger() as ledger:
        async with ledger.read() as session:
            rows = [await history.find(session, ref) for ref in refs]
        for each in rows:
            if each.status not in (Delivery.PENDING, Delivery.FAILED):
                raise InvalidInput(
                    "id",
                    f"{each.id} was {each.status}",
                    "only pending and failed ones can be retried",
                )
        return await sending.retry(ledger, [each.id for each in rows] if refs else None)


async def job_of(session: AsyncSession, row: OutboxRow) -> JobRow | None:
    """Return the job of the delivery, even if it was removed; None if there is no job."""
    return await session.get(JobRow, row.job_id) if row.job_id else None
