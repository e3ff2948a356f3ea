"""Lookup and creation of the rows of runs.

Functions that query take a session of the caller's transaction. `find` decides which of several
rows belongs to an occurrence: a live row with a flow run's id *is* that run's occurrence
(`docs/promise.md`, "Retry").
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook.errors import FenceRefused, NotFound
from daybook.jobs import payloads, store
from daybook.jobs.store import StoredJob
from daybook.json_text import JsonObject
from daybook.ledger import states, waits
from daybook.ledger.states import HELD, LIVE, TERMINAL, Status
from daybook.ledger.tables import RunRow
from daybook.ledger.waits import WaitReason
from daybook.runs import claim_requests, missed_ranges
from daybook.runs.claim_requests import ClaimRequest


async def get(session: AsyncSession, run_id: str) -> RunRow:
    """Return the run with this id; raise `NotFound` if there is none."""
    row = await session.get(RunRow, run_id)
    if row is None:
        raise NotFound("run", run_id)
    return row


async def get_held(session: AsyncSession, run_id: str, fence: int) -> RunRow:
    """Return the run if its holder has this fencing token; raise `NotFound` or `FenceRefused`."""
    row = await get(session, run_id)
    if row.fence != fence or row.state not in HELD:
        raise FenceRefused(run_id, fence, row.fence)
    return row


async def find(
    session: AsyncSession, flow_run_id: str | None, occurrence: str | None
) -> RunRow | None:
    """Return the row of this flow run or this occurrence, or None.

    If there are several rows, return the live row or, without a live row, the row that was started
    last. For a due time in a range of missed or skipped due times, return the row of the range.
    """
    matches = col(RunRow.occurrence) == occurrence
    if flow_run_id is not None:
        matches = matches | (col(RunRow.flow_run_id) == flow_run_id)
    found_rows = (await session.execute(select(RunRow).where(matches))).scalars().all()
    if (
        not found_rows
        and occurrence is not None
        and (timed := claim_requests.parse_due_key(occurrence))
    ):
        return await missed_ranges.range_covering(session, *timed)
    # A live row is the occurrence. Of several ended rows (retries of a flow run), choose the row of
    # the last start.
    return max(
        found_rows,
        key=lambda row: (row.state in LIVE, row.flow_starts, row.queued_at),
        default=None,
    )


async def job_id_of_finished(session: AsyncSession, flow_run_id: str) -> str | None:
    """Return the job id of an ended run that this flow run carried; None if there is none.

    Return None also for a run without a job.
    """
    ended = select(RunRow.job_id).where(
        col(RunRow.flow_run_id) == flow_run_id, col(RunRow.status).in_(TERMINAL)
    )
    job_id: str | None = (await session.execute(ended.limit(1))).scalar_one_or_none()
    return job_id


def of_request(
    request: ClaimRequest, occurrence: str, trigger: str, stored: StoredJob | None, now: datetime
) -> RunRow:
    """Return a new row for a claim request; the row is not stored and has no status yet."""
    return _new(
        stored,
        occurrence=occurrence,
        trigger=trigger,
        due=request.due,
        queued_at=now,
        kind=request.kind,
        parameters=request.parameters,
    )


def of_job(
    stored: StoredJob, occurrence: str, trigger: str, due: datetime, queued_at: datetime
) -> RunRow:
    """Return a new row of the job in this revision; the row is not stored and has no status yet."""
    return _new(
        stored,
        occurrence=occurrence,
        trigger=trigger,
        due=due,
        queued_at=queued_at,
        kind=stored.row.kind,
        parameters=stored.job.parameters(),
    )


def without_job(
    kind: str, occurrence: str, trigger: str, parameters: JsonObject, now: datetime
) -> RunRow:
    """Return a new row of a run without a job, requested now; it is not stored, and has no status.

    ``parameters`` are in the normal form of `Job.parameters`.
    """
    return _new(
        None,
        occurrence=occurrence,
        trigger=trigger,
        due=now,
        queued_at=now,
        kind=kind,
        parameters=parameters,
    )


def of_unreadable_job(stored: StoredJob, occurrence: str, trigger: str, due: datetime) -> RunRow:
    """Return a new row of a job that cannot be read; it has no parameters, so it cannot run."""
    return _new(
        stored,
        occurrence=occurrence,
        trigger=trigger,
        due=due,
        queued_at=due,
        kind=stored.row.kind,
        parameters={},
    )


def _new(stored: StoredJob | None, *, parameters: JsonObject, **columns: Any) -> RunRow:
    return RunRow(
        **columns,
        parameters=parameters,
        agent=claim_requests.agent_of(parameters),
        status="",
        job_id=stored.id if stored else None,
        revision=stored.revision.number if stored else None,
    )


def wait(row: RunRow, until: datetime, why: str, reason: WaitReason = waits.UNTIL) -> RunRow:
    """Make a row that is not stored yet, or already waits, wait until ``until``; return the row."""
    if row.status != Status.WAITING:
        states.check_transition(row.id, None, Status.WAITING)
    row.status, row.waits_for = Status.WAITING, reason.name
    row.until, row.reason = until, why
    return row


def payload_of(row: RunRow) -> JsonObject | None:
    """Return the part of `RunRow.found` to keep with the outcome: a hook's payload, or None."""
    found = row.found or {}
    return {payloads.PAYLOAD: found[payloads.PAYLOAD]} if payloads.PAYLOAD in found else None


def use_revision(row: RunRow, stored: StoredJob) -> None:
    """Make a run that has not started use this revision of its job."""
    row.revision, row.parameters = stored.revision.number, stored.job.parameters()
    row.agent = claim_requests.agent_of(row.parameters)


async def job_of(session: AsyncSession, row: RunRow) -> StoredJob | None:
    """Return the row's job; None for a run without a job.

    The job has the revision in force at the due time or, for an occurrence that is no due time, at
    `queued_at`. If the clock was set back, that may be before the job's creation; then the job of
    such an occurrence has its newest revision.
    """
    if row.job_id is None:
        return None
    if claim_requests.is_due_key(row.occurrence):
        return await store.in_force(session, row.job_id, row.due)
    # A custom run's due time may lie in the second before the job was created.
    stored = await store.in_force(session, row.job_id, row.queued_at)
    return stored or await store.get(session, row.job_id)
