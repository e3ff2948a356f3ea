"""Leases on runs: who holds one, for how long, and what its loss means (`docs/promise.md` 3, 5).

::

    claimed ──lease lost──► waiting   nothing was begun, so it may be tried again; the fence rises
    acting  ──lease lost──► unknown   the effect may have happened, so it is never repeated; the
                                      fence stays, and its holder may still bring the late outcome

A lease lasts `LEASE` and is renewed every `RENEW`. Whoever first finds one that ran out only marks
it; it is judged lost when it is still not renewed one `LEASE` after that mark. So a machine that
slept, or a ledger that nobody could reach, costs no run: its holder is awake to renew before the
judge (rule 5). `renew` answers yes or no; a no means: stop at once, your writes will be refused.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook.ledger import outcomes, states
from daybook.ledger.engine import Ledger
from daybook.ledger.states import HELD, Status
from daybook.ledger.tables import RunRow

LEASE = timedelta(seconds=60)
RENEW = timedelta(seconds=20)


async def renew(ledger: Ledger, run_id: str, fence: int) -> bool:
    """Extend the lease to `LEASE` from now; False when the claim is no longer the caller's."""
    async with ledger.write() as session:
        row = await session.get(RunRow, run_id)
        if row is None or row.state not in HELD or row.fence != fence:
            return False
        row.lease_until, row.suspected_at = ledger.now() + LEASE, None
        session.add(row)
        return True


def ran_out(row: RunRow, now: datetime) -> bool:
    """Whether the lease on ``row`` ran out; its holder is not given up for that alone."""
    return row.state in HELD and row.lease_until is not None and row.lease_until <= now


async def look(session: AsyncSession, row: RunRow, now: datetime) -> bool:
    """Suspect the holder of ``row``, or give it up when the suspicion is old enough.

    True when it was given up; the row's state has changed then.
    """
    if not ran_out(row, now):
        return False
    if row.suspected_at is None:
        row.suspected_at = now
        session.add(row)
        return False
    if row.suspected_at + LEASE > now:
        return False
    await give_up(session, row, now)
    return True


def next_look(row: RunRow) -> datetime | None:
    """When a look at a held ``row`` can tell something new."""
    return row.lease_until if row.suspected_at is None else row.suspected_at + LEASE


async def give_up(session: AsyncSession, row: RunRow, now: datetime) -> None:
    """Treat a lost lease by the drawing above."""
    if row.state is Status.CLAIMED:
        put_back(row, now, "the lease was lost before the effect")
        session.add(row)
    else:
        reason = f"the lease of {row.holder} was lost while it was acting"
        await outcomes.write(session, row, outcomes.Outcome(Status.UNKNOWN, reason=reason), now)


def put_back(row: RunRow, until: datetime, why: str) -> None:
    """Make a held run wait until ``until``; whoever held it is fenced off."""
    states.check(row.id, row.state, Status.WAITING)
    row.status = Status.WAITING
    row.until, row.reason = until, why
    row.fence += 1
    row.holder, row.lease_until, row.suspected_at = "", None, None


async def expire(session: AsyncSession, job_id: str, now: datetime) -> int:
    """Look at every held run of one job; returns how many were given up."""
    held = select(RunRow).where(col(RunRow.job_id) == job_id, col(RunRow.status).in_(HELD))
    rows = (await session.execute(held)).scalars().all()
    return sum([await look(session, row, now) for row in rows])
