"""The schedules of all jobs, without what the jobs do.

Reading a job as a `Job` validates all its fields. What asks for the due times of all jobs, such as
each query of the health, needs a few columns, and of an unchanged job not even its schedule again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook.jobs import upcoming
from daybook.jobs.policy import Policy, stored_policy
from daybook.ledger.tables import NEWEST_REVISION, JobRow, RevisionRow
from daybook.schedules.schedule import STORED, Schedule

MAX_IDS_PER_QUERY = 200
"""Maximum number of ids in one query; with more, the schedules of all jobs are read."""

_SCHEDULE = TypeAdapter[Schedule](Schedule)


@dataclass(frozen=True)
class ScheduledJob:
    """A live job in its newest revision; instants are in UTC.

    ``audited_until`` is its watermark, but not before the revision came into force: an earlier one
    may have had other due times.
    """

    id: str
    name: str
    owner: str
    revision: int
    enabled: bool
    sync_pending: bool
    skips: list[str]
    snoozed_until: datetime | None
    audited_until: datetime
    schedule: Schedule
    policy: Policy

    def next_start(self, now: datetime) -> datetime | None:
        """Return the first due time after ``now`` that is neither skipped nor snoozed."""
        snoozed = self.snoozed_until
        start = now if snoozed is None else max(now, snoozed - upcoming.ONE_MICROSECOND)
        first = upcoming.next_due(self.schedule, self.policy, start)
        if first is None or not self.skips:
            return first
        later = upcoming.due_times(self.schedule, self.policy, after=start)
        return next((due for due in later if due.isoformat() not in self.skips), None)


async def read(
    session: AsyncSession, known: Mapping[str, ScheduledJob] | None = None
) -> dict[str, ScheduledJob]:
    """Return all live jobs by id; the schedules of unchanged jobs in ``known`` are not read."""
    columns = (
        *(JobRow.id, JobRow.name, JobRow.owner, JobRow.revision, RevisionRow.enabled),
        *(JobRow.sync_pending, JobRow.skips, JobRow.snoozed_until),
        *(JobRow.audited_until, RevisionRow.effective_from),
    )
    rows = (await session.execute(_newest(*columns))).tuples().all()
    known = known or {}
    changed = {row[0] for row in rows if row[0] not in known or known[row[0]].revision != row[3]}
    schedules = await _read_schedules(session, changed) if changed else {}
    jobs = dict[str, ScheduledJob]()
    for (
        job_id,
        name,
        owner,
        revision,
        enabled,
        pending,
        skips,
        snoozed_until,
        audited,
        since,
    ) in rows:
        if job_id in schedules:
            schedule, policy = schedules[job_id]
        else:
            schedule, policy = known[job_id].schedule, known[job_id].policy
        jobs[job_id] = ScheduledJob(
            id=job_id,
            name=name,
            owner=owner,
            revision=revision,
            enabled=enabled,
            sync_pending=pending,
            skips=skips,
            snoozed_until=snoozed_until,
            audited_until=max(audited, since),
            schedule=schedule,
            policy=policy,
        )
    return jobs


async def _read_schedules(
    session: AsyncSession, ids: set[str]
) -> dict[str, tuple[Schedule, Policy]]:
    query = _newest(JobRow.id, RevisionRow.schedule, RevisionRow.policy)
    if len(ids) <= MAX_IDS_PER_QUERY:
        query = query.where(col(JobRow.id).in_(ids))
    return {
        job_id: (_SCHEDULE.validate_python(schedule, context=STORED), stored_policy(policy))
        for job_id, schedule, policy in (await session.execute(query)).tuples()
        if job_id in ids
    }


def _newest(*columns: Any) -> Any:
    """Return a query of these columns of all live jobs and their newest revisions."""
    joined = select(*columns).join(RevisionRow, NEWEST_REVISION)
    return joined.where(col(JobRow.archived_at).is_(None))
