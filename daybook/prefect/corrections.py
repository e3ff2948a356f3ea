"""Correct: what Prefect queues wrongly around a change of the clocks (`docs/promise.md` 14).

Prefect's scheduler reads a cron expression otherwise than requirement 7 does where the zone's
offset changes. From two days ahead of such a change until three hours after it, the runs that it
has queued are compared with the job's own due times::

    queued and not due ────────► set to `Skipped`, so that the UI tells the truth; the claim would
                                 refuse it all the same
    due, and not queued although ► a row that waits for its time (`ledger.corrections`); `ensure`
    later ones are, or soon due    makes its run

Once set, neither comes back: Prefect does not queue anew what it has ended, and a due time has one
row. A job is looked at when its revision is new, and every half hour: Prefect queues an hour ahead.
A job that is not in agreement with Prefect is left to the pass after the one that makes it so.
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
from daybook.prefect import deployment, flow_runs, projection, states
from daybook.runs import corrections
from daybook.schedules import due as spec_due
from daybook.schedules.schedule import Cron
from daybook.schedules.zones import next_change, zone

log = logging.getLogger(__name__)

AHEAD = timedelta(days=2)
AFTER = timedelta(hours=3)
AGAIN = timedelta(minutes=30)
SOON = timedelta(minutes=50)
"""A due time that is so near is queued by now, if it ever is: Prefect queues an hour ahead."""
AT_HAND = timedelta(minutes=1)
"""What is due in so short a time is left to the workers, who may have its run already."""
MOST_JOBS = 20
"""How many jobs are compared in one pass: two requests each, and one for each run that is wrong."""


@dataclass
class Memory:
    """What a keeper keeps from pass to pass: the revision it looked at last of each job, and when.

    Times are the ledger's.
    """

    looked: dict[str, tuple[int, datetime]] = field(default_factory=dict)


@dataclass
class Corrected:
    """How many jobs were compared, and how many runs were skipped and due times added."""

    jobs: int = 0
    skipped: int = 0
    added: int = 0

    def __bool__(self) -> bool:
        return bool(self.skipped or self.added)


async def correct(ledger: Ledger, client: PrefectClient, memory: Memory | None = None) -> Corrected:
    """One pass over the jobs that were not looked at lately, at most `MOST_JOBS` of them compared.

    Without ``memory`` over all, as at a start.
    """
    known = (memory or Memory()).looked
    done, now = Corrected(), ledger.now()
    for job_id, revision in await _due_for_a_look(ledger, known, now):
        if done.jobs >= MOST_JOBS:
            break
        async with ledger.read() as session:
            stored = await jobs.get(session, job_id)
        if stored is None:
            continue
        change = _change(stored, now)
        if change is not None:
            done.jobs += 1
            if not await _one(ledger, client, stored, change, done):
                continue
        known[job_id] = (revision, now)
    return done


async def _due_for_a_look(
    ledger: Ledger, known: dict[str, tuple[int, datetime]], now: datetime
) -> list[tuple[str, int]]:
    """The jobs with a deployment in agreement, by id and revision, that were not looked at."""
    there = select(JobRow.id, JobRow.revision).where(
        col(JobRow.archived_at).is_(None),
        col(JobRow.deployment_id).is_not(None),
        col(JobRow.sync_pending).is_(False),
    )
    async with ledger.read() as session:
        found = (await session.execute(there.order_by(col(JobRow.id)))).tuples().all()
    for gone in known.keys() - {job_id for job_id, _ in found}:
        del known[gone]

    def is_new(job_id: str, revision: int) -> bool:
        last = known.get(job_id)
        return last is None or last[0] != revision or last[1] <= now - AGAIN

    return [each for each in found if is_new(*each)]


def _change(stored: StoredJob, now: datetime) -> datetime | None:
    """When the clocks change by which the job goes, if that is near."""
    schedule = stored.job.schedule
    if not stored.job.enabled or not isinstance(schedule, Cron):
        return None
    floor = now.replace(microsecond=0)
    return next_change(zone(schedule.timezone), floor - AFTER, floor + AHEAD)


async def _one(
    ledger: Ledger,
    client: PrefectClient,
    stored: StoredJob,
    change: datetime,
    done: Corrected,
) -> bool:
    """Compare one job; False when it is not in agreement with Prefect."""
    schedule, policy, now = stored.job.schedule, stored.job.policy, ledger.now()
    found = await deployment.read(client, str(stored.row.deployment_id))
    if found is None:
        return False
    wanted, theirs = projection.of_job(stored, ledger.id), projection.of_deployment(found)
    if (wanted.schedule, wanted.enabled) != (theirs.schedule, theirs.enabled):
        return False
    start, end = now + AT_HAND, change + AFTER
    queued = await _queued(client, found.id, start, projection.foreign_ids(found))
    for due, run in queued.items():
        if due <= end and not spec_due.is_due(schedule, due):
            done.skipped += await _skip(client, run, schedule.timezone)
    beyond = max(queued, default=start)
    until = min(end, max(beyond, now + SOON))
    missing = [
        each for each in upcoming.between(schedule, policy, start, until) if each not in queued
    ]
    why = f"Prefect does not queue it: daylight saving in {schedule.timezone}"
    done.added += await corrections.ask(ledger, stored.id, stored.revision.number, missing, why)
    return True


async def _queued(
    client: PrefectClient, deployment_id: object, after: datetime, foreign: Collection[str]
) -> dict[datetime, FlowRun]:
    """The runs that Prefect's scheduler has made of the job's own schedule, by due time."""
    runs = await flow_runs.queued(client, str(deployment_id), after)
    return {
        datetime.fromtimestamp(int(run.expected_start_time.timestamp()), UTC): run
        for run in runs
        if run.auto_scheduled
        and run.expected_start_time is not None
        and not (run.created_by and str(run.created_by.id) in foreign)
    }


async def _skip(client: PrefectClient, run: FlowRun, timezone: str) -> bool:
    message = f"not due: daylight saving in {timezone}"
    change = await flow_runs.change(client, run, states.state_of(Status.SKIPPED, message))
    if change.surprise:
        # Somebody has it, or has ended it: the claim refuses it whoever asks.
        log.info("%s was changed meanwhile", run.name, extra={"action": "raced"})
    return change.accepted
