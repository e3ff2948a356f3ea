"""Reasons why a due time of a job does not run now.

The claim checks these reasons (`claim_rules`), also after a wait. The audit uses the same
functions, so it never records a due time as missed if a claim would skip it for one of these
reasons. `overdue`, `disabled_jobs` and `prefect_ends` use some of the functions, too.

`daybook.jobs.upcoming` decides by schedule and bounds whether an instant is due. This module checks
the rest at the moment of the claim, by the job's newest revision (promise 1: the claim evaluates
`enabled` and limits as they are now).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook.jobs import upcoming
from daybook.jobs.model import Job
from daybook.jobs.scheduled import ScheduledJob
from daybook.jobs.store import StoredJob
from daybook.ledger.states import HELD, Status
from daybook.ledger.tables import JobRow, RunRow
from daybook.runs import claim_requests, leases, outcomes


def skip_reason(
    newest: StoredJob, due: datetime, max_runs_reason: str, *, attempted: bool = False
) -> str:
    """Return why a due time is skipped; empty if it may run.

    Once ``attempted``, a run continues unless its job is disabled.
    """
    if (why := job_off_reason(newest)) or attempted:
        return why
    return manual_skip_reason(newest.row, due) or max_runs_reason


def needs_enabled_job(row: RunRow) -> bool:
    """Return whether the run is skipped if its job is disabled.

    True for a due time, a backfill, and a run that another job or a hook started.
    """
    is_timed = row.job_id is not None and claim_requests.is_due_key(row.occurrence)
    return is_timed or row.started_by.by_event or row.started_by.is_backfill


def off_reason(newest: StoredJob, row: RunRow) -> str:
    """Return why the claim skips a run because of its job or due time; empty if it does not.

    Only for a run for which `needs_enabled_job` is True. A snooze or skip does not apply to a
    backfill, nor to a run with an attempt.
    """
    if row.started_by.is_backfill:
        return job_off_reason(newest)
    return skip_reason(newest, row.due, "", attempted=row.attempts > 0)


def manual_skip_reason(newest: JobRow | ScheduledJob, due: datetime) -> str:
    """Return the reason if the user has skipped or snoozed this due time; empty otherwise."""
    if due.isoformat() in newest.skips:
        return "skipped by hand"
    snoozed = newest.snoozed_until
    if snoozed is not None and due < snoozed:
        return f"snoozed until {snoozed:%Y-%m-%d %H:%M:%S} UTC"
    return ""


async def max_runs_reason(
    session: AsyncSession, newest: StoredJob, now: datetime, run_id: str = ""
) -> str:
    """Return why `max_runs` forbids the run ``run_id``, or a new run; empty if it does not.

    An uncertain run (`uncertain_last_run`) does not count yet.
    """
    max_runs = newest.job.policy.max_runs
    if not max_runs:
        return ""
    started = await _started_runs(session, newest.id, run_id)
    certain = [each for each in started if not _may_wait_again(each, now)]
    if newest.row.run_count + len(certain) >= max_runs:
        return f"max runs: {max_runs} are done or running"
    return ""


async def uncertain_last_run(
    session: AsyncSession, row: RunRow, newest: StoredJob, now: datetime
) -> RunRow | None:
    """Return another run with an expired lease that may use up the job's `max_runs`, or None.

    That run is claimed, but its holder has not started it. If the holder is dead, the run waits
    again and no longer counts. Check the leases of such runs first, and release the runs whose
    holders are lost. Return None if ``row`` has had an attempt.
    """
    max_runs = newest.job.policy.max_runs
    if not max_runs or row.attempts:
        return None
    started = await _started_runs(session, newest.id, row.id)
    uncertain = [each for each in started if _may_wait_again(each, now)]
    lost = [each for each in uncertain if await leases.check_lease(session, each, now)]
    remaining = [each for each in uncertain if each not in lost]
    if remaining and newest.row.run_count + len(started) - len(lost) >= max_runs:
        return remaining[0]
    return None


def job_off_reason(newest: StoredJob) -> str:
    """Return why the job is disabled or removed; empty if it is enabled."""
    if newest.job.enabled:
        return ""
    if newest.row.archived_at is not None:
        return outcomes.REMOVED_REASON
    reason = newest.row.disabled_reason
    return f"the job is disabled: {reason}" if reason else "the job is disabled"


async def _started_runs(session: AsyncSession, job_id: str, run_id: str) -> Sequence[RunRow]:
    """Return the other runs of the job that have started, or are claimed, and have not ended."""
    waiting = (col(RunRow.status) == Status.WAITING) & (col(RunRow.attempts) > 0)
    started = select(RunRow).where(
        col(RunRow.job_id) == job_id,
        col(RunRow.id) != run_id,
        col(RunRow.status).in_(HELD) | waiting,
    )
    return (await session.execute(started)).scalars().all()


def _may_wait_again(row: RunRow, now: datetime) -> bool:
    """Return whether ``row`` has had no attempt and its lease has expired."""
    return not row.attempts and leases.is_expired(row, now)


def is_due(job: Job, instant: datetime) -> bool:
    """Return whether ``instant`` is a due time of the job; a disabled job has none."""
    return job.enabled and upcoming.is_due(job.schedule, job.policy, instant)
