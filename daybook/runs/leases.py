"""Leases on runs: their holders, their duration, and the effect of a loss.

::

    claimed ──holder lost──► waiting   nothing has started, so it may run again; the token rises
    running ──holder lost─┬► unknown   the effect may have happened, so it is never repeated; the
                          │            token stays, and its holder may still record the outcome late
                          └► waiting   only with `on_lost: rerun` and a rerun left; the token rises

A holder is lost in one of these cases:

* its process group is known to have exited (`claims.holder_died`),
* its worker has ended with all processes of its runs (`release_ended`),
* its Prefect run has ended (`prefect_ends`),
* `check_lease` declares it lost after its lease has expired.

A lease lasts `Timing.run_lease`; its holder renews it every `run_lease_renewal`. The first process
that finds an expired lease only marks its holder as suspected. If the holder does not renew within
one lease duration of that mark, the next check declares it lost. So a machine that slept, or an
unreachable ledger, costs no run: the holder can renew before that check (promise 5: a lease is
suspected first). `renew` returns whether the lease was renewed. If it was not, the caller has to
stop at once, because the ledger refuses its writes.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from datetime import datetime, timedelta

from sqlalchemy import or_
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook.errors import LedgerUnreachable
from daybook.ledger import states, waits
from daybook.ledger.engine import Ledger
from daybook.ledger.states import HELD, Outcome, Status, Usage
from daybook.ledger.tables import RunRow
from daybook.ledger.waits import WaitReason
from daybook.policies import policy
from daybook.runs import outcomes, slots, waiting_runs
from daybook.timing import TIMING

log = logging.getLogger(__name__)

FIRST_RESTART_DELAY = timedelta(seconds=2)


async def renew(ledger: Ledger, run_id: str, fence: int) -> bool:
    """Restart the lease from now; return False if the caller no longer has the claim."""
    async with ledger.write() as session:
        row = await session.get(RunRow, run_id)
        if row is None or row.state not in HELD or row.fence != fence:
            return False
        row.lease_until, row.suspected_at = ledger.now() + TIMING.run_lease, None
        session.add(row)
        return True


async def renew_all(
    ledger: Ledger, holder: str, run_ids: Mapping[str, str]
) -> dict[str, Status | None]:
    """Restart from now the leases that ``holder`` has on these runs, in one transaction.

    ``run_ids`` maps the flow runs of the holder's processes to run ids; the result maps the same
    flow runs to the statuses of their runs. If a status is not claimed or running, the lease was
    not renewed: the run has ended, was lost, or waits again. None means that the run does not
    exist, or that another process holds it, even a process of ``holder`` that claimed the run in
    another flow run.
    """
    statuses: dict[str, Status | None] = dict.fromkeys(run_ids)
    if not statuses:
        return statuses
    async with ledger.write() as session:
        until = ledger.now() + TIMING.run_lease
        rows = select(RunRow).where(col(RunRow.id).in_(set(run_ids.values())))
        found = {row.id: row for row in (await session.execute(rows)).scalars()}
        for flow_run_id, run_id in run_ids.items():
            row = found.get(run_id)
            if row is None:
                continue
            if row.state not in HELD:
                statuses[flow_run_id] = row.state
            # The fencing token cannot be compared: a process may claim again between two attempts,
            # and has not reported the new token yet.
            elif (row.holder, row.flow_run_id) == (holder, flow_run_id):
                statuses[flow_run_id] = row.state
                row.lease_until, row.suspected_at = until, None
                session.add(row)
    return statuses


def is_expired(row: RunRow, now: datetime) -> bool:
    """Return whether the lease on ``row`` has expired; its holder may still be alive.

    A lease that ends later than one that begins now has expired too, because the clock was set
    back; a living holder renews it in time.
    """
    if row.state not in HELD or row.lease_until is None:
        return False
    return row.lease_until <= now or row.lease_until > _latest_end(now)


def _latest_end(now: datetime) -> datetime:
    """Return the end of a lease that begins now, with a margin: the clocks of processes differ."""
    return now + TIMING.run_lease + TIMING.run_lease_renewal


async def check_lease(session: AsyncSession, row: RunRow, now: datetime) -> bool:
    """Mark the holder of an expired lease as suspected; declare it lost if the mark is old enough.

    Do nothing if the lease has not expired. Return True if the holder was declared lost; the row's
    state has then changed.
    """
    if not is_expired(row, now):
        return False
    if row.suspected_at is None or row.suspected_at > now:
        row.suspected_at = now
        session.add(row)
        return False
    if row.suspected_at + TIMING.run_lease > now:
        return False
    await judge_lost(session, row, now)
    return True


def next_check_at(row: RunRow) -> datetime | None:
    """Return when the next check of a held ``row`` can have a new result; None without a lease."""
    return row.lease_until if row.suspected_at is None else row.suspected_at + TIMING.run_lease


def holder_last_seen_at(row: RunRow) -> datetime | None:
    """Return when a claim, begin or renewal last restarted the lease; None without one."""
    return None if row.lease_until is None else row.lease_until - TIMING.run_lease


def holder_known_at(row: RunRow, now: datetime) -> datetime:
    """Return when a check can learn more about the holder of ``row``.

    It is the time at which the holder's next renewal counts as missed, then the end of the lease,
    then the time at which a check can declare the holder lost. After a call of `check_lease`, it is
    later than ``now``. Without a lease, it is one renewal interval after ``now``.
    """
    seen_at = holder_last_seen_at(row)
    if seen_at is None or row.lease_until is None:
        return now + TIMING.run_lease_renewal
    if is_expired(row, now):
        return (row.suspected_at or now) + TIMING.run_lease
    renewal_due_at = seen_at + TIMING.run_lease_missed
    return renewal_due_at if renewal_due_at > now else row.lease_until


async def judge_lost(session: AsyncSession, row: RunRow, now: datetime) -> None:
    """Release a run whose holder lost its lease, as in the module's diagram."""
    if row.state is Status.CLAIMED:
        why = "the lease was lost before the effect"
    else:
        why = f"{row.holder} lost its lease during the run"
    await release_lost(session, row, now, why)


async def release_lost(
    session: AsyncSession,
    row: RunRow,
    now: datetime,
    why: str,
    *,
    error: str | None = None,
    usage: Usage | None = None,
) -> None:
    """Release a held ``row`` whose holder recorded no outcome, as in the module's diagram.

    ``error`` describes the end of the process, for instance by its last output; ``usage`` is the
    usage of the attempt.
    """
    unknown = Outcome(Status.UNKNOWN, why, error=error, usage=usage)
    if row.state is Status.CLAIMED:
        grants = (row.fence + 1) // 2  # each grant raises the token, and so does each release
        until = now + start_delay(grants)
        await return_to_waiting(session, row, now, until, why, reason=waits.LOST)
        return
    if row.attempts <= row.policy.reruns:
        await outcomes.close_attempt(session, row, unknown, now)
        until = now + row.policy.delay(row.attempts)
        why = f"{unknown.reason}; it will run again"
        await return_to_waiting(session, row, now, until, why, reason=waits.LOST)
    else:
        await outcomes.record(session, row, unknown, now)


async def release_ended(
    ledger: Ledger, find_ended: Callable[[Collection[str]], Awaitable[Collection[str]]]
) -> list[RunRow]:
    """Release the runs whose holders are known to have ended; return the changed rows.

    ``find_ended`` records the spooled outcomes of the given holders, and returns which of them have
    ended (`holders.find_ended`). A running run with a rerun left keeps its lease, because a program
    that the run started may still be alive. Log the error of one run and continue, but raise
    `LedgerUnreachable`.
    """
    is_held = col(RunRow.status).in_(HELD)
    async with ledger.read() as session:
        held = (await session.execute(select(RunRow.id, RunRow.holder).where(is_held))).all()
    ended = await find_ended({holder for _, holder in held})
    changed = []
    for run_id in [id_ for id_, holder in held if holder in ended]:
        try:
            async with ledger.write() as session:
                row = await session.get(RunRow, run_id)
                if row is None or row.state not in HELD or row.holder not in ended:
                    continue
                if row.state is Status.RUNNING and row.attempts <= row.policy.reruns:
                    continue
                await release_lost(session, row, ledger.now(), f"{row.holder} has ended")
                changed.append(row)
        except LedgerUnreachable:
            raise
        except Exception:
            log.exception("cannot release run %s", run_id, extra={"action": "release_ended"})
    return changed


def start_delay(starts: int) -> timedelta:
    """Return the delay before the next start, after ``starts`` starts without an attempt.

    Only the first is zero, so a run whose process dies at each start is not restarted in a tight
    loop.
    """
    return backoff(FIRST_RESTART_DELAY, starts - 2) if starts > 1 else timedelta(0)


def backoff(first: timedelta, repeats: int) -> timedelta:
    """Return ``first``, doubled ``repeats`` times, but at most `policy.MAX_RETRY_DELAY`."""
    return min(first * (1 << min(repeats, 9)), policy.MAX_RETRY_DELAY)


async def return_to_waiting(
    session: AsyncSession,
    row: RunRow,
    now: datetime,
    until: datetime,
    why: str,
    *,
    reason: WaitReason = waits.UNTIL,
) -> None:
    """Make a held run wait until ``until``; a higher fencing token excludes the old holder.

    The next run with its label gets its place, and so does the next message of its session.
    """
    states.check_transition(row.id, row.state, Status.WAITING)
    row.status, row.waits_for = Status.WAITING, reason.name
    row.until, row.reason = until, why
    row.fence += 1
    row.holder, row.lease_until, row.suspected_at = "", None, None
    session.add(row)
    await slots.release_label(session, row, now)
    await slots.release_session(session, row, now)


async def expire_job(session: AsyncSession, job_id: str, now: datetime) -> int:
    """Check every held run of one job; return the number of holders that were declared lost."""
    held = select(RunRow).where(col(RunRow.job_id) == job_id, col(RunRow.status).in_(HELD))
    rows = (await session.execute(held)).scalars().all()
    return sum([await check_lease(session, row, now) for row in rows])


async def expire_all(ledger: Ledger, limit: int = 200) -> list[RunRow]:
    """Check runs with expired leases, and time out runs that waited past their deadlines.

    Handle at most ``limit`` runs of each kind; return the rows whose state changed. Log the error
    of one run and continue, but raise `LedgerUnreachable`. If there is nothing to do, only read,
    without the write lock.
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
    except Exception:  # one run's error must not block the other runs
        return await _judge_each(ledger, [*held, *waiting])


async def _judge(ledger: Ledger, run_ids: Iterable[str]) -> list[RunRow]:
    """Check the leases of held runs and the deadlines of waiting runs, in one transaction.

    Return the rows whose state changed.
    """
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
    """Check each run in its own transaction; log the error of a run and continue."""
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
    """Return the ids of held runs with an expired lease.

    Leave out runs whose holder has been suspected for less than one lease duration.
    """
    suspected = col(RunRow.suspected_at)
    expired = (
        select(RunRow.id)
        .where(
            col(RunRow.status).in_(HELD),
            or_(col(RunRow.lease_until) <= now, col(RunRow.lease_until) > _latest_end(now)),
            or_(suspected.is_(None), suspected <= now - TIMING.run_lease, suspected > now),
        )
        .order_by(col(RunRow.lease_until))
        .limit(limit)
    )
    return list((await session.execute(expired)).scalars())
