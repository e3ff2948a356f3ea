"""The buttons under the message that asks for an approval."""

from __future__ import annotations

from functools import partial

from sqlalchemy.ext.asyncio import AsyncSession

from daybook.delivery.buttons import MessageButton, Press
from daybook.ledger.engine import open_ledger
from daybook.ledger.tables import ApprovalRow, OutboxRow, RunRow
from daybook.policies.policy import ANSWER
from daybook.runs import claims
from daybook.runs.approvals import EVENT, ApprovalStatus


async def of(session: AsyncSession, row: OutboxRow) -> list[MessageButton]:
    """Return the buttons of the question ``row`` while it can be decided; [] for other messages."""
    if row.event != EVENT or not row.run_id:
        return []
    number = int(row.key.rpartition(":")[2])
    asked = await session.get(ApprovalRow, (row.run_id, number))
    run = await session.get(RunRow, row.run_id)
    if asked is None or run is None or not run.wait_reason.for_person:
        return []
    if asked.status != ApprovalStatus.OPEN:
        return []
    decide = partial(_decide, asked.run_id, number, _what(asked))
    return [
        MessageButton("approve", "Approve", partial(decide, approve=True), ("yes", "ok")),
        MessageButton(
            "reject", "Reject", partial(decide, approve=False), ("no",), takes_reason=True
        ),
    ]


def _what(asked: ApprovalRow) -> str:
    return "the answer" if asked.position == ANSWER else f"`{asked.tool}`"


async def _decide(run_id: str, number: int, what: str, press: Press, *, approve: bool) -> str:
    async with open_ledger() as ledger:
        await claims.decide_approval(
            ledger, run_id, number, approve=approve, by=press.by, reason=press.reason
        )
    return f"{'Approved' if approve else 'Rejected'}: {what}. The run goes on."
