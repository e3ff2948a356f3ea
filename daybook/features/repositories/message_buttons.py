"""The buttons under the message that a change waits for a person."""

from __future__ import annotations

from functools import partial

from sqlalchemy.ext.asyncio import AsyncSession

from daybook.delivery.buttons import MessageButton, Press
from daybook.features.repositories import operations
from daybook.features.repositories.messages import EVENT
from daybook.features.repositories.tables import ChangeRow, ChangeStatus
from daybook.ledger.tables import OutboxRow
from daybook.names import Id

MAX_PATCH = 8_000
"""Maximum length of a shown patch, in characters."""


async def of(session: AsyncSession, row: OutboxRow) -> list[MessageButton]:
    """Return the buttons of a change while it waits; [] for other messages."""
    change = None
    if row.event == EVENT and row.run_id:
        change = await session.get(ChangeRow, row.run_id)
    if change is None or change.status != ChangeStatus.WAITING:
        return []
    run_id = change.run_id
    return [
        MessageButton("land", "Land", partial(_land, run_id)),
        MessageButton("diff", "Show diff", partial(_diff, run_id)),
        MessageButton("discard", "Discard", partial(_discard, run_id), takes_reason=True),
    ]


async def _land(run_id: str, press: Press) -> str:
    change = await operations.land(Id(run_id), wait=False)
    if change.problem:
        return f"It has not landed: {change.problem}"
    return f"The change lands on {change.onto}."


async def _diff(run_id: str, press: Press) -> str:
    change = await operations.show(Id(run_id))
    patch = change.patch.replace("```", "'''")
    cut = "\n(The rest is on the page.)" if len(patch) > MAX_PATCH else ""
    return f"{change.size_in_words()}\n\n```diff\n{patch[:MAX_PATCH]}\n```{cut}"


async def _discard(run_id: str, press: Press) -> str:
    await operations.discard(Id(run_id), press.reason)
    return "The change is discarded."
