"""Operations on the inbox: list and show messages, mark them as read.

The operations work without Prefect.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from daybook.api import authorization
from daybook.api.callbacks import job_of
from daybook.delivery import history
from daybook.delivery.outbox import INBOX, LISTENER
from daybook.delivery.views import InboxMessage
from daybook.errors import NotFound
from daybook.ledger.engine import open_ledger, reading
from daybook.ledger.tables import OutboxRow

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession


async def list_messages(
    job: str | None = None, *, unread_only: bool = True, limit: int = 20
) -> list[InboxMessage]:
    """Return up to ``limit`` inbox messages, newest first; by default, only unread ones.

    ``job`` may have been removed. Raise `NotFound` or `Ambiguous` for it.
    """
    async with reading() as session:
        job_id = (await authorization.find_job(session, job, archived=True)).id if job else None
        rows = await history.inbox(session, unread_only=unread_only, job_id=job_id, limit=limit)
        return [InboxMessage.of(each, await job_of(session, each)) for each in rows]


async def show(ref: str) -> InboxMessage:
    """Return one message by its id or a unique prefix; it stays unread.

    Raise `NotFound`, `Ambiguous`.
    """
    async with reading() as session:
        row = await _find(session, ref)
        return InboxMessage.of(row, await job_of(session, row))


async def mark_read(refs: Sequence[str] = ()) -> int:
    """Mark the messages ``refs``, or all, as read. Return the number of those that were unread.

    Each ref is an id or a unique prefix. Raise `NotFound` or `Ambiguous`, and then mark nothing.
    """
    async with open_ledger() as ledger:
        async with ledger.read() as session:
            rows = [await _find(session, ref) for ref in refs]
        return await history.mark_read(ledger, [each.id for each in rows] if refs else None)


async def _find(session: AsyncSession, ref: str) -> OutboxRow:
    try:
        row = await history.find(session, ref)
    except NotFound:
        raise NotFound("message", ref) from None
    if row.address != INBOX or row.purpose == LISTENER:
        raise NotFound("message", ref)
    return row
