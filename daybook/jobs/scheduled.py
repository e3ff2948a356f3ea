"""The schedules of all jobs, without their actions.

Reading a job as a `Job` validates all its fields. A query of the due times of all jobs, such as the
query of the health check, needs only a few columns, and the schedules of the changed jobs.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import TypeAdapter, ValidationError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook.jobs import stored_columns, upcoming
from daybook.ledger.tables import NEWEST_REVISION, JobRow, RevisionRow
from daybook.policies.policy import Policy
from daybook.schedules.schedule import Schedule
from daybook.validation import STORED, parse_stored

_SCHEDULE = TypeAdapter[Schedule](Schedule)


@dataclass(frozen=True)
class ScheduledJob:
    """A live job in its newest revision; instants are in UTC.

    ``audited_until`` is the job's audit watermark, or the start of the revision if that is later:
    an earlier revision may have had other due times.
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
        """Return the first due time after ``now`` that is neither skipped nor snoozed, or None."""
        left_out = (self.skips, self.snoozed_until)
        return next(upcoming.starts(self.schedule, self.policy, now, *left_out), None)


async def read(
    session: AsyncSession, known: Mapping[str, ScheduledJob] | None = None
) -> dict[str, ScheduledJob]:
    """Return all live jobs by id; reuse the schedules of jobs in ``known`` that are unchanged.

    Leave out jobs whose schedule, policy or skips cannot be read (`store.read_all`).
    """
    columns = (
        *(JobRow.id, JobRow.name, JobRow.owner, JobRow.revision, RevisionRow.enabled),
        *(JobRow.sync_pending, JobRow.skips, JobRow.snoozed_until),
        *(JobRow.audited_until, RevisionRow.effective_from),
    )
    rows = (await session.execute(_newest(*columns))).mappings().all()
    known = known or {}
    changed = {
        row["id"]
        for row in rows
        if row["id"] not in known or known[row["id"]].revision != row["revision"]
    }
    schedules = await _read_schedules(session, changed) if changed else {}
    jobs = dict[str, ScheduledJob]()
    for row in rows:
        id_, columns_read = row["id"], dict(row)
        if id_ in changed and id_ not in schedules:
            continue
        if not stored_columns.are_skips(row["skips"]):
            continue
        since = columns_read.pop("effective_from")
        columns_read["audited_until"] = max(columns_read["audited_until"], since)
        schedule, policy = schedules.get(id_) or (known[id_].schedule, known[id_].policy)
        jobs[id_] = ScheduledJob(**columns_read, schedule=schedule, policy=policy)
    return jobs


async def _read_schedules(
    session: AsyncSession, ids: set[str]
) -> dict[str, tuple[Schedule, Policy]]:
    query = _newest(JobRow.id, RevisionRow.schedule, RevisionRow.policy)
    if len(ids) <= stored_columns.MAX_IDS_PER_QUERY:
        query = query.where(col(JobRow.id).in_(ids))
    found = dict[str, tuple[Schedule, Policy]]()
    for job_id, schedule, policy in (await session.execute(query)).tuples():
        if job_id in ids:
            with suppress(ValidationError):
                parsed = _SCHEDULE.validate_python(schedule, context=STORED)
                found[job_id] = parsed, parse_stored(Policy, policy)
    return found


def _newest(*columns: Any) -> Any:
    """Return a query of these columns of all live jobs and their newest revisions."""
    joined = select(*columns).join(RevisionRow, NEWEST_REVISION)
    return joined.where(col(JobRow.archived_at).is_(None))
