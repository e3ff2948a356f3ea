"""What becomes of a run while another one of its job is at work (requirement 22).

===============  =================================================================================
the job says     a run that comes while one is at work
===============  =================================================================================
skip             is skipped
queue_one        waits; it is skipped when one waits already
queue_all        waits; all of them run one after the other, in the order in which they were due
cancel_running   waits while that one is ended; one that waited already is skipped for it
allow            begins beside it
===============  =================================================================================

At work is what somebody holds, and what stands between two attempts for as long as somebody can be
expected to come back for it. A run with an attempt behind it is never skipped: it waits. Whoever
waits here is handed on to the slots by the end of what it waits for (`slots.hand_on`); to look
again by itself is only the net. Of a job that catches up on all due times, those wait as with
`queue_all`, and a due time that comes meanwhile waits behind them. A backfill waits so too, unless
the job says allow, and a due time that meets one waits for that one run only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import or_
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook.ledger import leases, outcomes, slots
from daybook.ledger.outcomes import Outcome
from daybook.ledger.states import HELD, LIVE, Status
from daybook.ledger.tables import RunRow
from daybook.spec import policy

LOOK_AGAIN = timedelta(seconds=30)
ENOUGH = 10
"""How many queued runs decide what becomes of a further one."""
CATCH_UP = "catch_up"
"""The trigger of a due time that is made up for."""


@dataclass(frozen=True)
class Behind:
    """Why a run does not begin now: it is ``skipped``, or waits.

    ``cancel`` are the flow runs that have to be ended for it.
    """

    why: str
    skipped: bool = False
    cancel: tuple[str, ...] = ()


async def behind(session: AsyncSession, row: RunRow, job_id: str, now: datetime) -> Behind | None:
    """What keeps ``row`` from beginning; None when nothing of its job does.

    Lost leases of the job are given up first. With `cancel_running` what nobody holds is ended
    here and now.
    """
    await leases.expire(session, job_id, now)
    rule = _rule(row)
    if rule == "allow":
        return None
    at_work, queued = await _others(session, row, job_id, now, every=rule == "cancel_running")
    before = [each for each in queued if slots.turn(each) < slots.turn(row)]
    if any(map(_is_made_up_for, (*at_work, *before))):
        rule = "queue_all"
    if row.attempts:
        held = [each for each in at_work if each.state in HELD]
        return Behind(_said(held[0])) if held else None
    if rule == "skip":
        return Behind(_said(at_work[0]), skipped=True) if at_work else None
    if rule == "cancel_running":
        return await _in_place_of(session, row, at_work, queued, now)
    fresh = row.waits_for not in slots.TURNS
    if rule == "queue_one" and fresh and len(at_work) + len(queued) > 1:
        first = (at_work or queued)[0]
        return Behind(f"{_said(first)}, and another one waited already", skipped=True)
    ahead = at_work or before
    return Behind(_said(ahead[0])) if ahead else None


async def _others(
    session: AsyncSession, row: RunRow, job_id: str, now: datetime, *, every: bool
) -> tuple[list[RunRow], list[RunRow]]:
    """What of the job is at work, and what is queued; of that the first are enough, or ``every``.

    A day that is to be made up for may be thousands of rows.
    """
    other = (col(RunRow.job_id) == job_id, col(RunRow.id) != row.id)
    begun = or_(col(RunRow.status).in_(HELD), col(RunRow.attempts) > 0)
    working = select(RunRow).where(*other, col(RunRow.status).in_(LIVE), begun)
    found = (await session.execute(working.order_by(*slots.ORDER))).scalars().all()
    at_work = [each for each in found if _at_work(each, now)]
    waiting = select(RunRow).where(
        *other,
        col(RunRow.status) == Status.WAITING,
        col(RunRow.waits_for).in_(slots.TURNS),
        col(RunRow.until) >= now - slots.BELIEVED,
    )
    first = waiting.order_by(*slots.ORDER).limit(None if every else ENOUGH + len(at_work))
    queued = (await session.execute(first)).scalars().all()
    return at_work, [each for each in queued if each not in at_work]


def _rule(row: RunRow) -> policy.Overlap:
    said = policy.of_run(row.parameters).overlap
    if row.trigger == slots.BACKFILL and said == "allow":
        return said
    # What is made up for comes oldest first, and is no storm.
    return "queue_all" if _is_made_up_for(row) else said


def _is_made_up_for(row: RunRow) -> bool:
    if row.trigger == CATCH_UP:
        return policy.of_run(row.parameters).catch_up == "all"
    return row.trigger == slots.BACKFILL


async def _in_place_of(
    session: AsyncSession,
    row: RunRow,
    at_work: Sequence[RunRow],
    queued: Sequence[RunRow],
    now: datetime,
) -> Behind | None:
    later = [each for each in (*at_work, *queued) if slots.turn(each) > slots.turn(row)]
    if later:
        return Behind(f"{_said(later[0])}, which was due later", skipped=True)
    why = f"overlap: the run of {_clock(row.due)} took its place"
    for each in queued:
        await outcomes.write(session, each, Outcome(Status.SKIPPED, why), now)
    held = [each for each in at_work if each.state in HELD]
    for each in at_work:
        if each not in held:
            await outcomes.write(session, each, Outcome(Status.CANCELLED, why), now)
    if not held:
        return None
    flow_runs = tuple(each.flow_run_id for each in held if each.flow_run_id is not None)
    return Behind(f"{_said(held[0])} and is being cancelled", cancel=flow_runs)


def _at_work(row: RunRow, now: datetime) -> bool:
    between = row.attempts > 0 and row.until is not None and row.until >= now - leases.LEASE
    return row.state in HELD or between


def _said(other: RunRow) -> str:
    return f"overlap: run {other.id[:8]} of {_clock(other.due)} was still at work"


def _clock(instant: datetime) -> str:
    return instant.strftime("%Y-%m-%d %H:%M:%S UTC")
