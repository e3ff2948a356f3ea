"""Ends in Prefect: their effect on the run that the Prefect run carried.

===========  ===========  ===================  =================  ==================
the row is   CANCELLED    CRASHED              FAILED             COMPLETED, SKIPPED
===========  ===========  ===================  =================  ==================
waiting      cancelled    waiting for another  waiting (the same  skipped
                          Prefect run; failed  as crashed)
                          after some of them
claimed      cancelled    waiting again        failed             skipped
running      cancelled    unknown, or rerun    unknown, or rerun  unknown, or rerun
missing      cancelled    waiting, or missed   failed             skipped
audited      nothing      nothing              nothing            nothing
ended        nothing      nothing              nothing            nothing
===========  ===========  ===================  =================  ==================

A person has set COMPLETED by hand. SKIPPED is Daybook's own refusal, which Prefect shows as a
cancelled run: SKIPPED creates no row, and does not end a row that waits without a Prefect run.

If the row is missing, `apply_end` creates a row only for a due time of the revision in force, or
for a custom or quick run of a job. After a crash, it skips the new row of a removed job, and fails
the new row of a run with refused parameters. *Audited* is a due time up to the watermark of the
audit, possibly within the range of another row.

A caller may apply the same end any number of times; only the first time has an effect. An end also
changes nothing if another Prefect run now carries the row, or if a restore may have lost the row
(`runs.restored`). A worker must not apply the end of a run whose process it supervises, because its
own observation of that process takes precedence.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from sqlalchemy import func
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook.errors import UnreadableJob
from daybook.jobs import lateness, store, upcoming
from daybook.jobs.store import StoredJob
from daybook.ledger import states, waits
from daybook.ledger.engine import Ledger
from daybook.ledger.states import TERMINAL, Outcome, Status
from daybook.ledger.tables import Fact, JobRow, RunRow
from daybook.policies.work_pools import OWN_POOL
from daybook.runs import claim_requests, leases, outcomes, restored, rows
from daybook.runs.claim_requests import ClaimRequest
from daybook.runs.eligibility import is_due

MAX_PREFECT_RUNS = 3
"""Maximum number of Prefect runs for a run that never started; after the last, the run fails."""

NEVER_BEGAN = " of its Prefect runs ended before it began: "
"""Part of the error of a run that failed after `MAX_PREFECT_RUNS` Prefect runs."""

FIRST_DELAY_ELSEWHERE = timedelta(seconds=30)
"""Delay after the first counted Prefect run in another work pool; each further one is doubled."""

REFUSED = "Prefect refused to create its run: "
"""Beginning of the reason of a row for which Prefect refused to create a run."""

FIRST_REFUSAL_DELAY = timedelta(seconds=15)
"""The first delay after a refusal; each further delay is twice as long."""

_BY_HAND = "set to Completed by hand in Prefect"
_CANCELLED = "cancelled in Prefect"


EndKind = Literal["COMPLETED", "FAILED", "CRASHED", "CANCELLED", "SKIPPED"]
"""The type of the state that ended a Prefect run; SKIPPED is Daybook's own state."""


@dataclass(frozen=True)
class EndInPrefect:
    """A Prefect run that has ended: the type, name and message of its state.

    ``request`` is the claim request that the Prefect run would have made; if it is None and the run
    has no row, nothing is known about the run.
    """

    flow_run_id: str
    state: EndKind
    name: str
    message: str
    request: ClaimRequest | None = None

    def describe(self) -> str:
        """Return the end as a reason: the name of the state, and its message if there is one."""
        return f"its Prefect run ended as {self.name}" + (f": {self.message}" * bool(self.message))


async def apply_end(ledger: Ledger, end: EndInPrefect, fence: int | None = None) -> Status | None:
    """Apply the module's table to the run; return its new status, or None if nothing changed.

    ``fence`` is the row's fencing token before the caller queried Prefect; None skips the
    comparison. A row that was granted or released since then is not changed, because the end may
    belong to an earlier start.
    """
    async with ledger.write() as session:
        occurrence = end.request.occurrence if end.request else None
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


def is_refused(row: RunRow) -> bool:
    """Return whether Prefect refused to create the last Prefect run of this waiting row."""
    return row.wait_reason is waits.PREFECT or row.reason.startswith(REFUSED)


async def record_refusal(ledger: Ledger, seen: RunRow, why: str) -> Status | None:
    """Record that Prefect refused to create a run for the waiting row ``seen``.

    ``why`` is Prefect's message. Return the new status of the row; None, with nothing changed, if
    the row has changed since it was ``seen``. The run fails after `MAX_PREFECT_RUNS` Prefect runs
    and refusals together; each attempt of the run allows one more. Raise `NotFound` if
    the row was deleted.
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
            row.reason = f"{REFUSED}{why}"
            if not row.wait_reason.survives_refusal:
                row.waits_for = waits.PREFECT.name
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
        row.flow_run_id = None  # the Prefect run has ended; the keeper creates another one
        session.add(row)


async def _wait_for_another(
    session: AsyncSession, row: RunRow, end: EndInPrefect, now: datetime
) -> None:
    """Make a row wait for another Prefect run, because its last Prefect run ended unintentionally.

    After `MAX_PREFECT_RUNS` Prefect runs without an attempt, the run fails.
    """
    is_elsewhere = row.policy.pool not in ("", OWN_POOL)
    if row.prefect_runs >= MAX_PREFECT_RUNS and not row.attempts:
        error = f"{row.prefect_runs}{NEVER_BEGAN}{end.message or end.name}"
        if is_elsewhere:
            error = f"{error.rstrip('.')}; see daybook doctor --pool {shlex.quote(row.policy.pool)}"
        await _fail(session, row, error, now)
    else:
        # The run still waits for the same condition, such as a backoff or a slot.
        delay = leases.start_delay(row.prefect_runs)
        if is_elsewhere and row.prefect_runs:
            # The ledger may not have accepted all of them at once.
            delay = leases.backoff(FIRST_DELAY_ELSEWHERE, row.prefect_runs - 1)
        row.until = max(row.until or now, now + delay)
        row.reason = end.describe()


async def _fail(session: AsyncSession, row: RunRow, error: str, now: datetime) -> None:
    """Fail a waiting row that gets no further Prefect run."""
    states.check_transition(row.id, row.state, Status.CLAIMED)
    row.status = Status.CLAIMED
    await outcomes.record(session, row, Outcome(Status.FAILED, error=error), now)


async def _apply_to_uncarried(
    session: AsyncSession, row: RunRow, end: EndInPrefect, now: datetime
) -> Status | None:
    """End a row that waits without a Prefect run, because an earlier Prefect run of it ended.

    Only states that a user set in Prefect count: a crash is not intended, and the row already waits
    for another Prefect run. Return the new status, or None if nothing changed.
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
    request = end.request
    if request is None or request.job_id is None or end.state == "SKIPPED":
        return None
    restore = await restored.read(session)
    if restore is not None and restore.lost(request):
        return None  # the run may have happened, so it must not wait again; its end was reported
    timed = claim_requests.is_due_key(request.occurrence)
    if not timed and not request.occurrence.startswith("flow:"):
        return None  # a request has its row before its Prefect run, so the row was pruned
    try:
        stored = await store.in_force(session, request.job_id, request.due if timed else now)
    except UnreadableJob:
        return await _apply_to_unreadable(session, end, request, now)
    if stored is None or (timed and not _has_no_row_yet(stored, request.due)):
        return None
    job = stored.job
    row = rows.of_request(request, request.occurrence, request.trigger, stored, now)
    row.flow_run_id, row.flow_starts = end.flow_run_id, request.flow_starts
    if timed:
        row.parameters = job.parameters()
    outcome = _outcome_by_person(end)
    if outcome is None:
        stagger = timedelta()
        if timed:
            stagger = upcoming.stagger_offset(stored.id, job.policy.stagger)
        outcome = _outcome_of_crash(request, stored, now, end.describe())
        if outcome is None:
            _make_waiting(row, end, now, stagger)
            session.add(row)
            return row.state
    await outcomes.record(session, row, outcome, now)
    return row.state


def _outcome_by_person(end: EndInPrefect) -> Outcome | None:
    """Return the outcome of a Prefect run that a person has ended; None for a crash."""
    match end.state:
        case "CANCELLED":
            return Outcome(Status.CANCELLED, _CANCELLED)
        case "COMPLETED":
            return Outcome(Status.SKIPPED, _BY_HAND)
        case "FAILED":
            return _failed(end)
        case _:
            return None


async def _apply_to_unreadable(
    session: AsyncSession, end: EndInPrefect, request: ClaimRequest, now: datetime
) -> Status | None:
    """Record that a person has ended the Prefect run of a job that cannot be read.

    Otherwise the audit would make this due time run once the job can be read. A crash is left to
    the audit.
    """
    outcome = _outcome_by_person(end)
    found = await store.read_all(session, [request.job_id]) if request.job_id else []
    if outcome is None or not found:
        return None
    timed = claim_requests.is_due_key(request.occurrence)
    if timed and request.due <= found[0].row.audited_until:
        return None
    due = request.due if timed else now
    row = rows.of_unreadable_job(found[0], request.occurrence, request.trigger, due)
    row.flow_run_id, row.flow_starts = end.flow_run_id, request.flow_starts
    await outcomes.record(session, row, outcome, now)
    return row.state


def _outcome_of_crash(
    request: ClaimRequest, stored: StoredJob, now: datetime, crash: str
) -> Outcome | None:
    """Return the outcome of a crashed run without a row; None if another Prefect run follows."""
    if stored.row.archived_at is not None:
        return Outcome(Status.SKIPPED, outcomes.REMOVED_REASON)
    if claim_requests.is_due_key(request.occurrence):
        late = lateness.judge_at(stored, request.due, now)
        return None if late.runs else Outcome(Status.MISSED, f"{late.reason}; {crash}")
    if request.refused:
        return Outcome(Status.FAILED, "parameters", error=request.refused)
    return None


def _make_waiting(row: RunRow, end: EndInPrefect, now: datetime, stagger: timedelta) -> None:
    """Make a row that is not stored yet wait for another Prefect run."""
    # The claim decides about a future due time, and staggers it, when it is due: an edit may come
    # first.
    early = claim_requests.is_due_key(row.occurrence) and row.due > now
    begins = row.due if early else row.due + stagger
    rows.wait(row, max(now, begins), end.describe(), waits.DUE if early else waits.UNTIL)
    row.flow_run_id = None
    if begins > now:
        row.queued_at = begins


def _has_no_row_yet(stored: StoredJob, due: datetime) -> bool:
    """Return whether ``due`` is a due time after the watermark of the audit."""
    return is_due(stored.job, due) and due > stored.row.audited_until


def _failed(end: EndInPrefect) -> Outcome:
    return Outcome(Status.FAILED, error=end.message or end.describe())


_KEY = "ends_read"


async def read_until(session: AsyncSession) -> datetime | None:
    """Return the time (UTC) up to which ends in Prefect were read; None before the first read."""
    fact = await session.get(Fact, _KEY)
    return None if fact is None else datetime.fromisoformat(fact.value)


async def advance(ledger: Ledger, to: datetime) -> None:
    """Move the time of `read_until` to ``to`` (UTC), but back only if it is in the future."""
    async with ledger.write() as session:
        fact = await session.get(Fact, _KEY) or Fact(key=_KEY, value="")
        if not fact.value or not to <= datetime.fromisoformat(fact.value) <= ledger.now():
            fact.value = to.isoformat()
            session.add(fact)


async def first_job_created_at(session: AsyncSession) -> datetime | None:
    """Return when the first job, even an archived one, was created, or None.

    No run of any job ended before.
    """
    created_at: datetime | None = (
        await session.execute(select(func.min(col(JobRow.created_at))))
    ).scalar_one()
    return created_at
