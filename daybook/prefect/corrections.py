"""Corrections of the runs that Prefect queues wrongly around a clock change, and on some days.

When a time zone's offset changes, Prefect's scheduler computes due times from a cron expression
that differ from the job's own. It also leaves out days of an expression with a restricted day of
month: 1 and 2 March (after `31`, `*/5` or a list), and the last day of a short month (`L` in a
list). From two days before such a change or day until three hours after it, Daybook compares the
runs that Prefect has queued with the job's due times. It corrects the differences (promise 14)::

    queued and not due ────────► set to `Skipped`, so that the UI is right; the claim would
                                 refuse it anyway
    not queued, but due soon or  ► a row that waits for its time (`runs.corrections`);
    before a later queued run      `scheduled_runs` creates its Prefect run

Both corrections are final: Prefect does not queue an ended run again, and a due time has one row.
Daybook compares a job when its revision is new, and every half hour, because Prefect queues an hour
ahead. If a job's deployment differs from the job, the comparison waits for the first pass after the
reconciliation.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun
from sqlmodel import col, select

from daybook.jobs import store as jobs
from daybook.jobs import upcoming
from daybook.jobs.store import StoredJob
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Status
from daybook.ledger.tables import JobRow
from daybook.prefect import deployment, flow_runs, projection, run_log, states
from daybook.runs import corrections
from daybook.schedules import due as schedule_due
from daybook.schedules.cron import read_fields
from daybook.schedules.schedule import Cron
from daybook.schedules.zones import midnight, next_change, zone

log = logging.getLogger(__name__)

BEFORE_CHANGE_WINDOW = timedelta(days=2)
"""Time before a clock change or a left-out day at which the comparison begins."""
AFTER_CHANGE_WINDOW = timedelta(hours=3)
"""Time after a clock change or a left-out day until which the comparison continues."""
LEFT_OUT_DAYS = ((3, 1), (3, 2))
"""Month and day of the days that Prefect leaves out if the day of month is restricted.

Its croniter goes from the end of February to a day that the list has in March.
"""
COMPARISON_INTERVAL = timedelta(minutes=30)
"""Interval between two comparisons of an unchanged job."""
QUEUED_AHEAD_WINDOW = timedelta(minutes=50)
"""Time ahead in which Prefect has queued all runs that it will queue; it queues an hour ahead."""
WORKER_GRACE = timedelta(minutes=1)
"""Time ahead in which no run is corrected, because a worker may have fetched the run already."""
MAX_JOBS_PER_PASS = 20
"""Maximum number of jobs compared in a pass.

A comparison takes about two requests for each job, and two for each wrong run.
"""


@dataclass
class CorrectionState:
    """State of a keeper between passes: each job's last compared revision, with the time.

    The time of the comparison is the ledger's time.
    """

    compared: dict[str, tuple[int, datetime]] = field(default_factory=dict)


@dataclass
class CorrectionResult:
    """Numbers of jobs compared, runs skipped and due times added."""

    jobs: int = 0
    skipped: int = 0
    added: int = 0

    def __bool__(self) -> bool:
        return bool(self.skipped or self.added)


async def correct(
    ledger: Ledger, client: PrefectClient, memory: CorrectionState | None = None
) -> CorrectionResult:
    """Compare the jobs that were not compared recently, and correct their runs.

    Compare at most `MAX_JOBS_PER_PASS` jobs, and only jobs near a clock change or a left-out day.
    Without ``memory``, all these jobs are due for a comparison, as at startup.
    """
    compared = (memory or CorrectionState()).compared
    done, now = CorrectionResult(), ledger.now()
    for job_id, revision in await _jobs_to_compare(ledger, compared, now):
        if done.jobs >= MAX_JOBS_PER_PASS:
            break
        async with ledger.read() as session:
            stored = await jobs.get(session, job_id)
        if stored is None:
            continue
        error = _next_error(stored, now)
        if error is not None:
            done.jobs += 1
            if not await _compare_job(ledger, client, stored, error, done):
                continue
        compared[job_id] = (revision, now)
    return done


async def _jobs_to_compare(
    ledger: Ledger, compared: dict[str, tuple[int, datetime]], now: datetime
) -> list[tuple[str, int]]:
    """Return the id and the revision of each job that is due for a comparison.

    These jobs have a deployment, and no change that has to be sent to Prefect. Remove other jobs
    from ``compared``.
    """
    deployed = select(JobRow.id, JobRow.revision).where(
        col(JobRow.archived_at).is_(None),
        col(JobRow.deployment_id).is_not(None),
        col(JobRow.sync_pending).is_(False),
    )
    async with ledger.read() as session:
        candidates = (await session.execute(deployed.order_by(col(JobRow.id)))).tuples().all()
    for removed in compared.keys() - {job_id for job_id, _ in candidates}:
        del compared[removed]

    def is_new(job_id: str, revision: int) -> bool:
        last = compared.get(job_id)
        return last is None or last[0] != revision or last[1] <= now - COMPARISON_INTERVAL

    return [each for each in candidates if is_new(*each)]


@dataclass(frozen=True, order=True)
class _Error:
    """A time until ``end`` for which Prefect may queue other runs than the job's, and the cause."""

    end: datetime
    why: str


def _next_error(stored: StoredJob, now: datetime) -> _Error | None:
    """Return the clock change or the left-out day that ends last; None if none is near.

    Also return None if the job is disabled, if its schedule does not follow the wall clock, or if
    the job cannot be read.
    """
    schedule = stored.job.schedule
    if not stored.job.enabled or not schedule.follows_wall_clock:
        return None
    if stored.problems:
        return None
    tz, floor = zone(schedule.timezone), now.replace(microsecond=0) - AFTER_CHANGE_WINDOW
    until = now.replace(microsecond=0) + BEFORE_CHANGE_WINDOW
    found = list[_Error]()
    if (change := next_change(tz, floor, until)) is not None:
        why = f"daylight saving time in {schedule.timezone}"
        found.append(_Error(change + AFTER_CHANGE_WINDOW, why))
    if isinstance(schedule, Cron) and not (day := read_fields(schedule.expr).day).free:
        date, last = floor.astimezone(tz).date(), until.astimezone(tz).date()
        while date <= last:
            following = date + timedelta(days=1)
            is_last_of_list = day.last and bool(day.values) and following.day == 1
            if (date.month, date.day) in LEFT_OUT_DAYS or is_last_of_list:
                end = midnight(following, tz) + AFTER_CHANGE_WINDOW
                found.append(_Error(end, f"the day of month {day.text}"))
            date = following
    return max(found, default=None)


async def _compare_job(
    ledger: Ledger,
    client: PrefectClient,
    stored: StoredJob,
    error: _Error,
    done: CorrectionResult,
) -> bool:
    """Compare one job; return False if its deployment is missing, or not reconciled yet."""
    schedule, policy, now = stored.job.schedule, stored.job.policy, ledger.now()
    existing = await deployment.read(client, str(stored.row.deployment_id))
    if existing is None:
        return False
    expected, actual = projection.of_job(stored, ledger.id), projection.of_deployment(existing)
    if (expected.schedule, expected.enabled) != (actual.schedule, actual.enabled):
        return False
    start, end = now + WORKER_GRACE, error.end
    queued = await _queued(client, existing.id, start, projection.unmanaged_schedule_ids(existing))
    for due, run in queued.items():
        if due <= end and not schedule_due.is_due(schedule, due):
            done.skipped += await _skip_run(client, run, error.why)
    last_queued = max(queued, default=start)
    until = min(end, max(last_queued, now + QUEUED_AHEAD_WINDOW))
    missing = [
        each for each in upcoming.between(schedule, policy, start, until) if each not in queued
    ]
    reason = f"Prefect does not schedule it: {error.why}"
    done.added += await corrections.add_waiting_runs(
        ledger, stored.id, stored.revision.number, missing, reason
    )
    return True


async def _queued(
    client: PrefectClient, deployment_id: object, after: datetime, foreign: Collection[str]
) -> dict[datetime, FlowRun]:
    """Return the runs that Prefect queued by the job's own schedule, by due time (UTC).

    Return only runs that are due at ``after`` or later. Leave out runs of the schedules whose ids
    are in ``foreign``.
    """
    runs = await flow_runs.read_queued(client, str(deployment_id), after)
    return {
        datetime.fromtimestamp(int(run.expected_start_time.timestamp()), UTC): run
        for run in runs
        if run.auto_scheduled
        and run.expected_start_time is not None
        and not (run.created_by and str(run.created_by.id) in foreign)
    }


async def _skip_run(client: PrefectClient, run: FlowRun, why: str) -> bool:
    message = f"not due: {why}"
    change = await flow_runs.change_state(
        client, run, states.terminal_state(Status.SKIPPED, message)
    )
    if change.surprise:
        # A process holds the run or has ended it; the claim will refuse it anyway.
        log.info("%s was changed in the meantime", run.name, extra={"action": "raced"})
    elif change.accepted:
        await run_log.write_ends(client, [run_log.End(run.id, Status.SKIPPED, message)])
    return change.accepted
