"""The limits on how many runs are at work at once: whose turn a free slot is (`promise.md` 12).

::

    held = runs that somebody holds      free = the limit - held
    ahead = runs that wait for a slot and were due earlier, and that somebody can be expected to
            come for: not those whose process, worker or deployment is gone

    ahead < free ──► granted          else ──► waiting, for a slot

Nobody counts slots elsewhere: held rows are the slots that are taken, so none can be lost with a
process. What nobody schedules, a direct call, takes a slot and waits for none.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, and_, func, or_
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook.ledger.offers import Offer
from daybook.ledger.states import HELD, Status
from daybook.ledger.tables import RunRow

SLOT = "slot"
"""What `waits_for` says of a run that waits for a slot."""

OVERLAP = "overlap"
"""What it says of a run that waits for one of its own job (`daybook.ledger.overlap`)."""

LOOK_AGAIN = timedelta(seconds=30)
"""When a run that waits for its slot looks again by itself; a free slot brings it sooner."""

FULL = timedelta(seconds=5)
"""When a run looks again whose worker has no slot, while the limit would let it go."""

BELIEVED = timedelta(seconds=60)
"""How long after it should have looked again a run is believed to be there still."""


async def wait(
    session: AsyncSession, row: RunRow, offer: Offer, now: datetime
) -> tuple[datetime, str] | None:
    """Until when ``row`` has to wait for a slot, and why; None when one is its own."""
    if row.job_id is None and row.trigger == "direct":
        return None
    if offer.most is not None:
        held = await _at_work(session)
        if held >= offer.most:
            return now + LOOK_AGAIN, f"{held} of {offer.most} runs are at work"
        free = offer.most - held
        before = select(func.count()).where(_expected(now), _earlier(row))
        ahead = (await session.execute(before)).scalar_one()
        if ahead >= free:
            why = f"{held} of {offer.most} runs are at work, and {ahead} that were due earlier wait"
            return now + LOOK_AGAIN, why
    if offer.full:
        return now + FULL, "the worker has no free slot"
    return None


async def next_up(session: AsyncSession, now: datetime, most: int) -> list[RunRow]:
    """The runs that the free slots can take now, by due time: no more than are free."""
    free = most - await _at_work(session)
    if free <= 0:
        return []
    first = select(RunRow).where(_expected(now)).order_by(*ORDER).limit(free)
    return list((await session.execute(first)).scalars())


async def hand_on(session: AsyncSession, ended: RunRow, now: datetime) -> None:
    """``ended`` has its outcome: the run of its job that waits behind it waits for a slot now.

    So it is among those that are woken, and a later one of another job does not get before it.
    """
    if ended.job_id is None:
        return
    of_job = (col(RunRow.job_id) == ended.job_id, col(RunRow.id) != ended.id)
    held = select(RunRow.id).where(*of_job, col(RunRow.status).in_(HELD)).limit(1)
    if (await session.execute(held)).first() is not None:
        return
    behind = select(RunRow).where(
        *of_job, col(RunRow.status) == Status.WAITING, col(RunRow.waits_for) == OVERLAP
    )
    first: RunRow | None = (
        await session.execute(behind.order_by(*ORDER).limit(1))
    ).scalar_one_or_none()
    if first is not None:
        first.waits_for, first.until, first.reason = SLOT, now, "it is its turn"
        session.add(first)


ORDER = (col(RunRow.due), col(RunRow.queued_at), col(RunRow.id))
"""In what order runs get what there is too little of."""


def turn(row: RunRow) -> tuple[datetime, datetime, str]:
    """The place of ``row`` in `ORDER`."""
    return row.due, row.queued_at, row.id


async def _at_work(session: AsyncSession) -> int:
    held = select(func.count()).where(col(RunRow.status).in_(HELD))
    count: int = (await session.execute(held)).scalar_one()
    return count


def _expected(now: datetime) -> ColumnElement[bool]:
    return and_(
        col(RunRow.status) == Status.WAITING,
        col(RunRow.waits_for) == SLOT,
        col(RunRow.until) >= now - BELIEVED,
    )


def _earlier(row: RunRow) -> ColumnElement[bool]:
    due, queued_at, number = ORDER
    return or_(
        due < row.due,
        and_(due == row.due, queued_at < row.queued_at),
        and_(due == row.due, queued_at == row.queued_at, number < row.id),
    )
