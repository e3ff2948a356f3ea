"""Operations on the inbox: list and show messages, mark them as read. Works without Prefect."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from daybook.api import views
from daybook.api.callbacks import job_of
from daybook.delivery import history
from daybook.delivery.alerts import ALERT_EVENTS
from daybook.delivery.outbox import INBOX
from daybook.errors import NotFound
from daybook.jobs import store
from daybook.ledger.engine import open_ledger
from daybook.ledger.tables import JobRow, OutboxRow

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession


async def list_messages(
    job: str | None = None, *, unread_only: bool = True, limit: int = 20
) -> list[dict[str, Any]]:
    """Return inbox messages as `show` does, newest first.

    ``job`` selects those of one job, which may be a removed one. Raise `NotFound` for the job.
    """
    async with open_ledger() as ledger, ledger.read() as session:
        job_id = (await store.find(session, job, archived=True)).id if job else None
        rows = await history.inbox(session, unread_only=unread_only, job_id=job_id, limit=limit)
        return [_view(each, await job_of(session, each)) for each in rows]


async def show(ref: str) -> dict[str, Any]:
    """Return one message in full; ``ref`` is its id or a unique id prefix.

    `{"id", "event", "alert", "job", "job_removed", "run_id", "subject", "text", "created_at",
    "read_at"}`. Raise `NotFound`, `Ambiguous`. The message stays unread.
    """
    async with open_ledger() as ledger, ledger.read() as session:
        row = await _find(session, ref)
        return _view(row, await job_of(session, row))


async def mark_read(refs: Sequence[str] = ()) -> int:
    """Mark messages as read, by id or unique id prefix; without ``refs`` all of them.

    Return how many were unread. Raise `NotFound`, `Ambiguous`; none is marked then.
    """
    async with open_ledger() as ledger:
        async with ledger.read() as session:
            rows = [await _find(session, ref) for ref in refs]
        return await history.mark_read(ledger, [each.id for each in rows] if refs else None)


async def _find(session: AsyncSession, ref: str) -> OutboxRow:
    row = await history.find(session, ref)
    if row.address != INBOX:
        raise NotFound("message", ref)
    return row


def _view(row: OutboxRow, job: JobRow | None) -> dict[str, Any]:
    return {
        "id": row.id,
        "event": row.event,
        "alert": row.event in ALERT_EVENTS,
        "job": job.name if job else None,
        "job_removed": bool(job and job.archived_at),
        "run_id": row.run_id,
        "subject": row.subject,
        "text": row.body,
        "created_at": views.utc_text(row.created_at),
        "read_at": views.utc_text(row.read_at),
    }
