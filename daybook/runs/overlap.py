"""Overlap policy: the effect of a run in progress on the next run of the same job.

===============  =================================================================================
policy           a run that is claimed while another run of the job is in progress
===============  =================================================================================
skip             is skipped
queue_one        waits; it is skipped if another run already waits
queue_all        waits; all of them run one after the other, in the order of their due times
cancel_running   waits while that run is cancelled; a run that already waited is skipped for it
allow            starts next to that run
===============  =================================================================================

A run is in progress while a process holds it, and between two attempts as long as the next claim
can be expected. A run that has had an attempt is never skipped: it waits, but a later run with
`cancel_running` may cancel it. When the other run ends, `slots.release_slot` puts the waiting run
in the queue for slots. The waiting run also claims again by itself, but only as a fallback.

With `cancel_running`, a run is skipped if a run that was due later is in progress or waits. With
`skip`, a run that another job or a hook started waits as with `queue_all`, because no later due
time would replace it.

If a job catches up on all due times, their runs wait as with `queue_all`, whatever the policy.
Unless the policy is `allow`, the run of a new due time waits behind them. A backfill waits in the
same way unless the policy is `allow`. A due time that overlaps with a backfill then waits only
until that backfill ends.

A run is skipped only for another run whose holder is known to be alive. That holder has written to
the ledger since the run was due, or it is the claiming process. Until this is known, the run waits
(`waits.HOLDER`), at most until the holder's lease has ended and the holder is declared lost::

    the holder of the other run    the run that waits to learn whether the holder is alive
    ─────────────────────────────  ─────────────────────────────────────────────────────────────────
    renews its lease               is skipped at its next claim
    records the outcome in time    is skipped in that transaction (`skip_runs_awaiting_holder`)
    is declared lost               runs. A lost run that runs again comes afterwards; a lost run
                                   that had not started is skipped for the later due time

If several due times wait this way, only the latest stays; the others are skipped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import or_
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook.jobs import upcoming
from daybook.ledger import triggers, waits
from daybook.ledger.states import HELD, LIVE, Outcome, Status
from daybook.ledger.tables import AttemptRow, RunRow
from daybook.policies import policy
from daybook.runs import claim_requests, leases, outcomes, slots
from daybook.short_text import one_line
from daybook.timing import TIMING

RETRY_INTERVAL = timedelta(seconds=30)
QUEUE_GRACE = timedelta(seconds=60)
"""How long a waiting run still counts as queued after it should have claimed again."""
MAX_QUEUED_READ = 10
"""Maximum number of queued runs that a decision reads, in addition to runs in progress."""
MAX_REASON_CHARACTERS = 200


@dataclass(frozen=True)
class OverlapDecision:
    """Decision that a run does not begin now: it waits, or it is skipped if ``skipped`` is True.

    ``why`` is the reason. ``cancel`` lists the flow runs to cancel so that the run can begin.
    ``known_at`` is when more will be known about a holder that may be dead; None if the run waits
    for no such holder.
    """

    why: str
    skipped: bool = False
    cancel: tuple[str, ...] = ()
    known_at: datetime | None = None


async def decide(
    session: AsyncSession,
    row: RunRow,
    job_id: str,
    now: datetime,
    claimant: str,
    *,
    may_cancel: bool = True,
) -> OverlapDecision | None:
    """Return why ``row`` may not begin now; None if no other run of its job prevents it.

    Check the expired leases of the job's runs first. With `cancel_running`, immediately end other
    runs that no process holds, but no run that has had an attempt if ``may_cancel`` is False.
    ``claimant`` is the claiming process: a run that the claimant holds is known to be in progress.
    """
    rule = _overlap_policy(row)
    if rule == "allow":
        await leases.expire_job(session, job_id, now)
        return None
    at_work, queued = await _others(session, row, job_id, now, every=rule == "cancel_running")
    queued_before = [each for each in queued if slots.order_key(each) < slots.order_key(row)]
    if any(map(_is_catch_up, (*at_work, *queued_before))):
        rule = "queue_all"
    if row.attempts:
        held = [each for each in at_work if each.state in HELD]
        if not held and rule == "skip" and (lost_at := await _lost_at(session, row)):
            later = await _later_due_times(session, row, job_id, lost_at)
            return OverlapDecision(f"overlap: {_run_text(later[0])} goes first") if later else None
        return OverlapDecision(_still_at_work(held[0])) if held else None
    if rule == "cancel_running":
        return await _replace_others(session, row, at_work, queued, now, may_cancel=may_cancel)
    if rule == "skip" or (rule == "queue_one" and not row.wait_reason.in_queue):
        accepted = [each for each in queued if each.wait_reason.in_queue]
        others = _Others(row, at_work, accepted if rule == "queue_one" else [], claimant, now)
        decision = await others.verdict(session, _due(row, job_id))
        if decision is not None and decision.known_at is not None:
            return await _latest_only(session, row, job_id, now, decision)
        if decision is not None:
            return decision
    if rule == "skip":
        # The run was returned to waiting before it started: the latest due time runs instead of it.
        later = await _later_due_times(session, row, job_id, now) if row.fence else ()
        return OverlapDecision(_replaced_by(later[-1]), skipped=True) if later else None
    ahead = at_work or queued_before
    return OverlapDecision(_still_at_work(ahead[0])) if ahead else None


@dataclass(frozen=True)
class _Others:
    """The job's other runs that matter for ``row``; ``queued`` is empty except for `queue_one`."""

    row: RunRow
    at_work: Sequence[RunRow]
    queued: Sequence[RunRow]
    claimant: str
    now: datetime

    async def verdict(self, session: AsyncSession, due: datetime) -> OverlapDecision | None:
        """Return the decision to skip ``row``, due at ``due``, or to make it wait; else None."""
        queues = _overlap_policy(self.row) == "queue_one"
        alive = [each for each in self.at_work if await self._is_alive(session, each, due)]
        certain = [*alive, *self.queued]
        allowed = 1 if queues else 0
        if len(certain) > allowed:
            also = ", and another run was already waiting" if queues else ""
            return OverlapDecision(_in_the_way(certain[0], self.row) + also, skipped=True)
        uncertain = [each for each in self.at_work if each.state in HELD and each not in alive]
        if uncertain and len(certain) + len(uncertain) > allowed:
            known_at = min(leases.holder_known_at(each, self.now) for each in uncertain)
            why = f"overlap: it is not known yet whether {_run_text(uncertain[0])} is still running"
            return OverlapDecision(why, known_at=known_at)
        return None

    async def _is_alive(self, session: AsyncSession, other: RunRow, due: datetime) -> bool:
        """Return whether ``other`` is known to be in progress.

        A held run counts if its lease is valid, and its holder is the claimant or has written since
        ``due``. A run between two attempts counts unless its last attempt was lost since ``due``.
        """
        if other.state in HELD:
            if leases.is_expired(other, self.now):
                return False
            seen_at = leases.holder_last_seen_at(other)
            return other.holder == self.claimant or (seen_at is not None and seen_at >= due)
        lost_at = await _lost_at(session, other)
        return lost_at is None or lost_at < due


async def _lost_at(session: AsyncSession, row: RunRow) -> datetime | None:
    """Return when the last attempt of ``row`` was recorded as lost; None if it was not lost."""
    attempt = await session.get(AttemptRow, (row.id, row.attempts))
    lost = attempt is not None and attempt.status == Status.UNKNOWN
    return attempt.finished_at if attempt is not None and lost else None


async def _later_due_times(
    session: AsyncSession, row: RunRow, job_id: str, up_to: datetime
) -> Sequence[RunRow]:
    """Return the job's due times that wait to begin, from after ``row`` up to ``up_to``.

    Leave out due times with another overlap policy, so that no two runs wait for each other.
    """
    if not _is_timed(row):
        return ()
    waiting = select(RunRow).where(
        col(RunRow.job_id) == job_id,
        col(RunRow.status) == Status.WAITING,
        col(RunRow.attempts) == 0,
        col(RunRow.waits_for).not_in(waits.names(lambda each: each.is_reservation)),
        claim_requests.HAS_DUE_KEY,
        col(RunRow.due) > row.due,
        col(RunRow.due) <= up_to,
    )
    rows = (await session.execute(waiting.order_by(*slots.ORDER))).scalars().all()
    return [each for each in rows if _overlap_policy(each) == _overlap_policy(row)]


async def _latest_only(
    session: AsyncSession, row: RunRow, job_id: str, now: datetime, decision: OverlapDecision
) -> OverlapDecision:
    """Return ``decision`` (``row`` waits for a holder) unless a later due time waits as well.

    If a later due time waits, return the decision to skip ``row``. Otherwise, skip the earlier due
    times that wait for a holder, because ``row`` replaces them.
    """
    if not _is_timed(row):
        return decision
    if later := await _later_due_times(session, row, job_id, now):
        return OverlapDecision(_replaced_by(later[-1]), skipped=True)
    for each in await _awaiting_holder(session, row, job_id):
        if _is_timed(each) and each.due < row.due:
            outcome = Outcome(Status.SKIPPED, _replaced_by(row))
            await outcomes.record(session, each, outcome, now)
    return decision


async def _awaiting_holder(session: AsyncSession, row: RunRow, job_id: str) -> Sequence[RunRow]:
    """Return the other runs of the job that wait to learn whether a holder is alive."""
    waiting = select(RunRow).where(
        col(RunRow.job_id) == job_id,
        col(RunRow.id) != row.id,
        col(RunRow.status) == Status.WAITING,
        col(RunRow.waits_for) == waits.HOLDER.name,
    )
    return (await session.execute(waiting.order_by(*slots.ORDER))).scalars().all()


async def skip_runs_awaiting_holder(session: AsyncSession, row: RunRow, now: datetime) -> None:
    """Skip the runs that wait to learn whether the holder of ``row`` is alive: its write proves it.

    Call this before the outcome of ``row`` is written. Do nothing once the lease has expired,
    because then the waiting runs may begin.
    """
    if row.job_id is None or row.state not in HELD or leases.is_expired(row, now):
        return
    for each in await _awaiting_holder(session, row, row.job_id):
        if _overlap_policy(each) in ("skip", "queue_one"):
            await outcomes.record(session, each, Outcome(Status.SKIPPED, _still_at_work(row)), now)


async def _others(
    session: AsyncSession, row: RunRow, job_id: str, now: datetime, *, every: bool
) -> tuple[list[RunRow], list[RunRow]]:
    """Check the leases of the job's other runs; return those in progress, and those in the queue.

    Limit the number of queued runs unless ``every`` is True: a job that catches up on a day may
    have thousands of rows.
    """
    other = (col(RunRow.job_id) == job_id, col(RunRow.id) != row.id)
    begun = or_(col(RunRow.status).in_(HELD), col(RunRow.attempts) > 0)
    working = select(RunRow).where(*other, col(RunRow.status).in_(LIVE), begun)
    rows = (await session.execute(working.order_by(*slots.ORDER))).scalars().all()
    for each in rows:
        await leases.check_lease(session, each, now)
    at_work = [
        each
        for each in rows
        if each.state in HELD
        # The run may be between two attempts.
        or (
            each.state is Status.WAITING
            and each.attempts > 0
            and each.until is not None
            and each.until >= now - TIMING.run_lease
        )
    ]
    waiting = select(RunRow).where(
        *other,
        col(RunRow.status) == Status.WAITING,
        col(RunRow.waits_for).in_(waits.names(lambda each: each.claims_early)),
        col(RunRow.until) >= now - QUEUE_GRACE,
    )
    first = waiting.order_by(*slots.ORDER).limit(None if every else MAX_QUEUED_READ + len(at_work))
    queued = (await session.execute(first)).scalars().all()
    return at_work, [each for each in queued if each not in at_work]


def _overlap_policy(row: RunRow) -> policy.Overlap:
    configured = row.policy.overlap
    if row.started_by.is_backfill and configured == "allow":
        return configured
    # Catch-up runs start oldest first, one after the other. Runs that an event started do the same,
    # because the policy `skip` would lose them.
    is_event = row.started_by.by_event and configured == "skip"
    return "queue_all" if is_event or _is_catch_up(row) else configured


def _is_catch_up(row: RunRow) -> bool:
    if row.started_by is triggers.CATCH_UP:
        return row.policy.catch_up == "all"
    return row.started_by.is_backfill


async def _replace_others(
    session: AsyncSession,
    row: RunRow,
    at_work: Sequence[RunRow],
    queued: Sequence[RunRow],
    now: datetime,
    *,
    may_cancel: bool,
) -> OverlapDecision | None:
    later = [each for each in (*at_work, *queued) if slots.order_key(each) > slots.order_key(row)]
    if later:
        return OverlapDecision(f"{_still_at_work(later[0])} and was due later", skipped=True)
    why = _replaced_by(row)
    for each in queued:
        await outcomes.record(session, each, Outcome(Status.SKIPPED, why), now)
    held = [each for each in at_work if each.state in HELD]
    for each in at_work:
        if each not in held and may_cancel:
            await outcomes.record(session, each, Outcome(Status.CANCELLED, why), now)
    if not held:
        return None
    flow_runs = tuple(each.flow_run_id for each in held if each.flow_run_id is not None)
    return OverlapDecision(f"{_still_at_work(held[0])} and is being cancelled", cancel=flow_runs)


def _is_timed(row: RunRow) -> bool:
    return claim_requests.is_due_key(row.occurrence)


def _due(row: RunRow, job_id: str) -> datetime:
    """Return when ``row`` should begin: its due time, plus the stagger if the run is scheduled."""
    if not _is_timed(row):
        return row.due
    return row.due + upcoming.stagger_offset(job_id, row.policy.stagger)


def _in_the_way(other: RunRow, row: RunRow) -> str:
    """Return the reason why ``row`` is skipped for ``other``; a later due time replaces ``row``."""
    is_replaced = _is_timed(row) and _is_timed(other) and other.due > row.due
    return _replaced_by(other) if is_replaced else _still_at_work(other)


def _still_at_work(other: RunRow) -> str:
    if other.state is Status.WAITING and other.attempts and not other.wait_reason.for_person:
        why = one_line(other.reason, MAX_REASON_CHARACTERS)
        return f"overlap: {_run_text(other)} was waiting to retry ({why})"
    return f"overlap: {_run_text(other)} was still running"


def _run_text(other: RunRow) -> str:
    return f"run {other.id[:8]} of {_clock(other.due)}"


def _replaced_by(other: RunRow) -> str:
    return f"overlap: the run of {_clock(other.due)} replaced it"


def _clock(instant: datetime) -> str:
    return instant.strftime("%Y-%m-%d %H:%M:%S UTC")
