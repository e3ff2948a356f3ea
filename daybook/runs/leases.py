"""Leases on runs: their holders, their duration, and the result of a loss (`docs/promise.md` 3, 5).

::

    claimed ──holder lost──► waiting   nothing has started, so it may run again; the fence rises
    running ──holder lost─┬► unknown   the effect may have happened, so it is never repeated; the
                          │            fence stays, and its holder may still record the outcome late
                          └► waiting   only if the job says `on_lost: rerun`; the fence rises

A holder is lost if its process group is known to be gone (`claims.holder_died`), or when its lease
is lost. A lease lasts `Timing.run_lease`; its holder renews it every `run_lease_renewal`. The first
process that finds an expired lease only marks it. The holder is judged lost if it has not renewed
one lease duration after that mark. So a machine that slept, or an unreachable ledger, costs no
run: the holder can renew before it is judged (promise 5: a lease is suspected first).
`renew` returns whether the lease was renewed. False means: stop at once, your writes will be
refused.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import or_
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook.errors import LedgerUnreachable
from daybook.jobs import policy
from daybook.ledger import states
from daybook.ledger.engine import Ledger
from daybook.ledger.states import HELD, Outcome, Status
from daybook.ledger.tables import RunRow
from daybook.runs import outcomes, waiting_runs
from daybook.timing import TIMING

log = logging.getLogger(__name__)

FIRST_RESTART_DELAY = timedelta(seconds=2)
MAX_DELAY = timedelta(minutes=5)


async def renew(ledger: Ledger, run_id: str, fence: int) -> bool:
    """Renew the lease from now on; return False if the caller no longer has the claim."""
    async with ledger.write() as session:
        row = await session.get(RunRow, run_id)
        if row is None or row.state not in HELD or row.fence != fence:
            return False
        row.lease_until, row.suspected_at = ledger.now() + TIMING.run_lease, None
        session.add(row)
        return True


async def renew_all(
    ledger: Ledger, holder: str, run_ids: Collection[str]
) -> dict[str, Status | None]:
    """Renew the leases that ``holder`` has on these runs from now on, in one transaction.

    Returns the status of each run: one that is not held (waiting, or an outcome) was lost or has
    ended. None stands for a run that another process holds, or that does not exist.
    """
    statuses: dict[str, Status | None] = dict.fromkeys(run_ids)
    if not statuses:
        return statuses
    async with ledger.write() as session:
        until = ledger.now() + TIMING.run_lease
        rows = select(RunRow).where(col(RunRow.id).in_(statuses))
        for row in (await session.execute(rows)).scalars():
            if row.state not in HELD:
                statuses[row.id] = row.state
            elif row.holder == holder:
                statuses[row.id] = row.state
                row.lease_until, row.suspected_at = until, None
                session.add(row)
    return statuses


def is_expired(row: RunRow, now: datetime) -> bool:
    """Return whether the lease on ``row`` has expired; that alone does not make its holder lost."""
    return row.state in HELD and row.lease_until is not None and row.lease_until <= now


async def check_lease(session: AsyncSession, row: RunRow, now: datetime) -> bool:
    """Suspect the holder of ``row``, or judge it lost if the suspicion is old enough.

    Returns True if it was judged lost; the row's state has then changed.
    """
    if not is_expired(row, now):
        return False
    if row.suspected_at is None:
        row.suspected_at = now
        session.add(row)
        return False
    if row.suspected_at + TIMING.run_lease > now:
        return False
    await judge_lost(session, row, now)
    return True


def next_check_at(row: RunRow) -> datetime | None:
    """Return when the next check of a held ``row`` can have a new result."""
    return row.lease_until if row.suspected_at is None else row.suspected_at + TIMING.run_lease


def holder_last_seen_at(row: RunRow) -> datetime | None:
    """Return when the holder of ``row`` last wrote: claim, begin and renewal extend the lease."""
    return None if row.lease_until is None else row.lease_until - TIMING.run_lease


def holder_known_at(row: RunRow, now: datetime) -> datetime:
    """Return when more is known about the holder of ``row``: at its next renewal or its lease's
    end.

    Later than ``now`` for a row that was checked.
    """
    seen_at = holder_last_seen_at(row)
    if seen_at is None or row.lease_until is None:
        return now + TIMING.run_lease_renewal
    if is_expired(row, now):
        return (row.suspected_at or now) + TIMING.run_lease
    renewal_due_at = seen_at + TIMING.run_lease_missed
    return renewal_due_at if renewal_due_at > now else row.lease_until


async def judge_lost(session: AsyncSession, row: RunRow, now: datetime) -> None:
    """Apply the diagram above to an expired lease."""
    if row.state is Status.CLAIMED:
        why = "the lease was lost before the effect"
    else:
        why = f"the lease of {row.holder} was lost while it was running"
    await release_lost(session, row, now, why)


async def release_lost(
    session: AsyncSession,
    row: RunRow,
    now: datetime,
    why: str,
    *,
    error: str | None = None,
    usage: dict[str, Any] | None = None,
) -> None:
    """Apply the diagram above to a held ``row`` whose holder is gone and recorded no outcome.

    ``error`` is what is known about the end, such as the last output of the process; ``usage`` is
    what the attempt had taken.
    """
    unknown = Outcome(Status.UNKNOWN, why, error=error, usage=usage)
    if row.state is Status.CLAIMED:
        return_to_waiting(row, now + start_delay(_grants(row)), unknown.reason)
        session.add(row)
        return
    run_policy = policy.policy_from_parameters(row.parameters)
    if row.attempts <= run_policy.reruns:
        await outcomes.close_attempt(session, row, unknown, now)
        return_to_waiting(
            row, now + run_policy.delay(row.attempts), f"{unknown.reason}; it will run again"
        )
        session.add(row)
    else:
        await outcomes.record(session, row, unknown, now)


def _grants(row: RunRow) -> int:
    return (row.fence + 1) // 2  # each grant raises the fence, and so does each return


def start_delay(starts: int) -> timedelta:
    """Return the delay before the next start, after ``starts`` starts without an attempt.

    The first delay is zero and later ones grow, so that a run whose process dies at each start is
    not restarted in a tight loop.
    """
    return backoff(FIRST_RESTART_DELAY, starts - 2) if starts > 1 else timedelta(0)


def backoff(first: timedelta, repeats: int) -> timedelta:
    """Return ``first``, doubled ``repeats`` times, at most `MAX_DELAY`."""
    return min(first * (1 << min(repeats, 9)), MAX_DELAY)


def return_to_waiting(row: RunRow, until: datetime, why: str) -> None:
    """Make a held run wait until ``until``; the raised fence locks out its former holder."""
    states.check_transition(row.id, row.state, Status.WAITING)
    row.status, row.waits_for = Status.WAITING, ""
    row.until, row.reason = until, why
    row.fence += 1
    row.holder, row.lease_until, row.suspected_at = "", None, None


async def expire_job(session: AsyncSession, job_id: str, now: datetime) -> int:
    """Check every held run of one job; return how many holders were judged lost."""
    held = select(RunRow).where(col(RunRow.job_id) == job_id, col(RunRow.status).in_(HELD))
    rows = (await session.execute(held)).scalars().all()
    return sum([await check_lease(session, row, now) for row in rows])


async def expire_all(ledger: Ledger, limit: int = 200) -> list[RunRow]:
    """Check every run whose lease expired, and end those that waited past their deadline.

    At most ``limit`` of each kind; returns the rows whose state changed. If there is nothing to do,
    it only reads and does not take the write lock.
    """
    async with ledger.read() as session:
        now = ledger.now()
        held = await _expired_ids(session, now, limit)
        waiting = await waiting_runs.ids_past_deadline(session, now, limit)
    if not held and not waiting:
        return []
    try:
        return await _judge(ledger, [*held, *waiting])
    except LedgerUnreachable:
        raise
    except Exception:  # one run's error must not hold up the others
        return await _judge_each(ledger, [*held, *waiting])


async def _judge(ledger: Ledger, run_ids: Iterable[str]) -> list[RunRow]:
    """Judge these runs in one transaction; return the rows whose state changed."""
    changed = []
    async with ledger.write() as session:
        now = ledger.now()
        for run_id in run_ids:
            row = await session.get(RunRow, run_id)
            if row is None:
                continue
            if row.state is not Status.WAITING:
                if await check_lease(session, row, now):
                    changed.append(row)
            elif why := waiting_runs.deadline_reason(row, now):
                await outcomes.record(session, row, Outcome(Status.TIMED_OUT, why), now)
                changed.append(row)
    return changed


async def _judge_each(ledger: Ledger, run_ids: Iterable[str]) -> list[RunRow]:
    """Judge each run in its own transaction; log and skip one that cannot be judged."""
    changed = []
    for run_id in run_ids:
        try:
            changed += await _judge(ledger, [run_id])
        except LedgerUnreachable:
            raise
        except Exception:
            log.exception(
                "cannot check the lease and deadline of run %s", run_id, extra={"action": "expire"}
            )
    return changed


async def _expired_ids(session: AsyncSession, now: datetime, limit: int) -> list[str]:
    """Return the ids of held runs with an expired lease, without those suspected too recently."""
    suspected = col(RunRow.suspected_at)
    expired = (
        select(RunRow.id)
        .where(
            col(RunRow.status).in_(HELD),
            col(RunRow.lease_until) <= now,
            or_(suspected.is_(None), suspected <= now - TIMING.run_lease),
        )
        .order_by(col(RunRow.lease_until))
        .limit(limit)
    )
    return list((await session.execute(expired)).scalars())
