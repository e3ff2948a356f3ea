"""Ends made in Prefect: the effect on a run whose Prefect run ended there (`docs/promise.md` 13).

===========  ===========  ===================  =================  ==================
the row is   CANCELLED    CRASHED              FAILED             COMPLETED, SKIPPED
===========  ===========  ===================  =================  ==================
waiting      cancelled    waiting for another  waiting (the same  skipped
                          Prefect run; failed  as crashed)
                          after some of them
claimed      cancelled    waiting, at once     failed             skipped
running      cancelled    unknown, or rerun    unknown, or rerun  unknown, or rerun
missing      cancelled    waiting, or missed   failed             skipped
judged       nothing      nothing              nothing            nothing
ended        nothing      nothing              nothing            nothing
===========  ===========  ===================  =================  ==================

COMPLETED was set by hand. SKIPPED is Daybook's own refusal, which Prefect shows as a cancelled run:
it makes no row, and does not end a row that waits without a Prefect run.

A row is made only for a due time of the revision in force, and for a custom or quick run of a job.
*Judged* is a due time up to the watermark of the audit, possibly within the range of another row.
The same end may be applied any number of times; only the first time changes something. An end also
changes nothing if another Prefect run now carries the row. The caller must not supervise a
process of that run: its own observation of the process takes precedence.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from sqlalchemy import func
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook.jobs import lateness, store
from daybook.jobs.model import Job
from daybook.jobs.store import StoredJob
from daybook.ledger import states
from daybook.ledger.engine import Ledger
from daybook.ledger.states import TERMINAL, Outcome, Status
from daybook.ledger.tables import Fact, JobRow, RunRow
from daybook.runs import claim_requests, corrections, leases, outcomes, rows
from daybook.runs.claim_requests import ClaimRequest
from daybook.runs.eligibility import is_due

MAX_PREFECT_RUNS = 3
"""Maximum Prefect runs for a run that never started; if the last ends too, the run failed.
"""

PREFECT_REFUSAL = "prefect"
"""The `waits_for` of a row whose Prefect run was refused: none is requested again before `until`.
"""

FIRST_REFUSAL_DELAY = timedelta(seconds=15)
"""The first delay after a refusal; each further delay is twice as long."""

_BY_HAND = "set to Completed by hand in Prefect"
_CANCELLED = "cancelled in Prefect"


EndKind = Literal["COMPLETED", "FAILED", "CRASHED", "CANCELLED", "SKIPPED"]
"""The type of the state that ended a Prefect run; SKIPPED is Daybook's own state."""


@dataclass(frozen=True)
class EndInPrefect:
    """A Prefect run that has ended: the type, name and message of its state.

    ``offer`` is the claim request that the Prefect run would have made; without it nothing is known
    about a run that has no row.
    """

    flow_run_id: str
    state: EndKind
    name: str
    message: str
    offer: ClaimRequest | None = None

    def describe(self) -> str:
        """Return what happened, as text."""
        return f"its Prefect run ended as {self.name}" + (f": {self.message}" * bool(self.message))


async def apply_end(ledger: Ledger, end: EndInPrefect, fence: int | None = None) -> Status | None:
    """Apply the table above to the run; return its new status, None if nothing changed.

    ``fence`` is the one that the caller saw on the row before it asked Prefect. A row that was
    granted or returned since then is left alone, because the end may belong to an earlier start.
    """
    async with ledger.write() as session:
        occurrence = end.offer.occurrence if end.offer else None
        row = await rows.find(session, end.flow_run_id, occurrence)
        if row is None:
            return await _apply_without_row(session, end, ledger.now())
        if row.state in TERMINAL or fence not in (None, row.fence):
            return None
        if row.flow_run_id is None and row.state is Status.WAITING:
            return await _apply_to_uncarried(session, row, end, ledger.now())
        if row.flow_run_id != end.flow_run_id:
            return None  # another Prefect run now carries it
        await _apply_to_row(session, row, end, ledger.now())
        return row.state


async def record_refusal(ledger: Ledger, seen: RunRow, why: str) -> Status | None:
    """Record that Prefect refused to make a run for the waiting row ``seen``; return its new
    status.

    ``why`` is Prefect's message. Returns None, with nothing changed, if the row has changed since
    it was ``seen``. After `MAX_PREFECT_RUNS` refusals the run has failed; each earlier attempt
    allows one more.
    """
    async with ledger.write() as session:
        row, now = await rows.get(session, seen.id), ledger.now()
        unchanged = (row.flow_run_id, row.prefect_runs) == (seen.flow_run_id, seen.prefect_runs)
        if row.state is not Status.WAITING or not unchanged:
            return None
        row.prefect_runs += 1
        if row.prefect_runs >= MAX_PREFECT_RUNS + row.attempts:
            times = f"Prefect refused {row.prefect_runs} times to create its run: "
            await _fail(session, row, times + why, now)
        else:
            delay = leases.backoff(FIRST_REFUSAL_DELAY, row.prefect_runs - 1)
            row.until = max(row.until or now, now + delay)
            row.waits_for, row.reason = PREFECT_REFUSAL, f"Prefect refused to create its run: {why}"
            session.add(row)
        return row.state


async def _apply_to_row(
    session: AsyncSession, row: RunRow, end: EndInPrefect, now: datetime
) -> None:
    match row.state, end.state:
        case _, "CANCELLED":
            await outcomes.record(session, row, Outcome(Status.CANCELLED, _CANCELLED), now)
        case Status.RUNNING, _:
            await leases.release_lost(session, row, now, end.describe())
        case _, "COMPLETED":
            await outcomes.record(session, row, Outcome(Status.SKIPPED, _BY_HAND), now)
        case _, "SKIPPED":
            await outcomes.record(session, row, Outcome(Status.SKIPPED, end.message), now)
        case Status.CLAIMED, "FAILED":
            await outcomes.record(session, row, _failed(end), now)
        case Status.CLAIMED, _:
            await leases.release_lost(session, row, now, end.describe())
        case _:
            await _wait_for_another(session, row, end, now)
    if row.state is Status.WAITING:
        row.flow_run_id = None  # the Prefect run has ended; the keeper makes another one
        session.add(row)


async def _wait_for_another(
    session: AsyncSession, row: RunRow, end: EndInPrefect, now: datetime
) -> None:
    """Let a waiting row wait for another Prefect run: its last one ended unintentionally."""
    if row.prefect_runs >= MAX_PREFECT_RUNS and not row.attempts:
        problem = f"its Prefect runs ended {row.prefect_runs} times before it began: "
        await _fail(session, row, problem + (end.message or end.name), now)
    else:
        # It still waits for the same thing, such as a backoff or a slot.
        row.until = max(row.until or now, now + leases.start_delay(row.prefect_runs))
        row.reason = end.describe()


async def _fail(session: AsyncSession, row: RunRow, error: str, now: datetime) -> None:
    """Fail a waiting row that no Prefect run will carry to a claim."""
    states.check_transition(row.id, row.state, Status.CLAIMED)
    row.status = Status.CLAIMED
    await outcomes.record(session, row, Outcome(Status.FAILED, error=error), now)


async def _apply_to_uncarried(
    session: AsyncSession, row: RunRow, end: EndInPrefect, now: datetime
) -> Status | None:
    """End a row that waits without a Prefect run; this one was made for it, or carried it before.

    Nobody intended a crash, and the row already waits for another Prefect run. So only the states
    that a person set in Prefect count.
    """
    if end.state == "CANCELLED":
        outcome = Outcome(Status.CANCELLED, _CANCELLED)
    elif end.state == "COMPLETED":
        outcome = Outcome(Status.SKIPPED, _BY_HAND)
    else:
        return None
    row.flow_run_id = end.flow_run_id
    await outcomes.record(session, row, outcome, now)
    return row.state


async def _apply_without_row(
    session: AsyncSession, end: EndInPrefect, now: datetime
) -> Status | None:
    request = end.offer
    if request is None or request.job_id is None or end.state == "SKIPPED":
        return None
    timed = claim_requests.is_due_key(request.occurrence)
    if not timed and not request.occurrence.startswith("flow:"):
        return None  # a request has its row before its Prefect run: it was pruned
    stored = await store.in_force(session, request.job_id, request.due if timed else now)
    if stored is None or (timed and not _has_no_row_yet(stored, request.due)):
        return None
    row = rows.of_request(request, request.occurrence, request.trigger, stored, now)
    row.flow_run_id, row.flow_starts = end.flow_run_id, request.flow_starts
    if timed:
        row.parameters = stored.job.parameters()
    match end.state:
        case "CANCELLED":
            outcome = Outcome(Status.CANCELLED, _CANCELLED)
        case "COMPLETED":
            outcome = Outcome(Status.SKIPPED, _BY_HAND)
        case "FAILED":
            outcome = _failed(end)
        case "CRASHED":
            late = _late(stored.job, row, now) if timed else None
            if stored.row.archived_at is not None:
                outcome = Outcome(Status.SKIPPED, "the job was removed")
            elif request.refused and not timed:
                outcome = Outcome(Status.FAILED, "parameters", error=request.refused)
            elif late is not None and not late.runs:
                outcome = Outcome(Status.MISSED, late.reason)
            else:
                _make_waiting(row, end, now)
                session.add(row)
                return row.state
    await outcomes.record(session, row, outcome, now)
    return row.state


def _make_waiting(row: RunRow, end: EndInPrefect, now: datetime) -> None:
    """Let a row that is not stored yet wait for another Prefect run."""
    rows.wait(row, max(now, row.due), end.describe())
    row.flow_run_id = None
    if claim_requests.is_due_key(row.occurrence) and row.due > now:
        # The job may still be edited; the run is judged when it is due.
        row.waits_for, row.queued_at = corrections.UNTIL_DUE, row.due


def _has_no_row_yet(stored: StoredJob, due: datetime) -> bool:
    """Return whether it is a due time that the audit has not judged."""
    return is_due(stored.job, due) and due > stored.row.audited_until


def _late(job: Job, row: RunRow, now: datetime) -> lateness.Lateness:
    return lateness.judge(job.schedule, row.due, now, job.policy)


def _failed(end: EndInPrefect) -> Outcome:
    return Outcome(Status.FAILED, error=end.message or end.describe())


_KEY = "ends_read"


async def read_until(session: AsyncSession) -> datetime | None:
    """Return the mark (UTC), by the time of the end; None before the first read."""
    fact = await session.get(Fact, _KEY)
    return None if fact is None else datetime.fromisoformat(fact.value)


async def advance(ledger: Ledger, to: datetime) -> None:
    """Move the mark to ``to`` (UTC); never back, unless it lies beyond the ledger's now."""
    async with ledger.write() as session:
        fact = await session.get(Fact, _KEY) or Fact(key=_KEY, value="")
        if not fact.value or not to <= datetime.fromisoformat(fact.value) <= ledger.now():
            fact.value = to.isoformat()
            session.add(fact)


async def first_job_created_at(session: AsyncSession) -> datetime | None:
    """Return when the first job was made; None without any job.

    No run of this ledger ended before that.
    """
    created_at: datetime | None = (
        await session.execute(select(func.min(col(JobRow.created_at))))
    ).scalar_one()
    return created_at
