"""The schedules of all jobs, without their actions.

Reading a job as a `Job` validates all its fields. A query of the due times of all jobs, such as the
query of the health check, needs only a few columns, and the schedules of the changed jobs.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from daybook.jobs import stored_columns, upcoming
from daybook.ledger.tables import NEWEST_REVISION, JobRow, RevisionRow
from daybook.policies.policy import Policy
from daybook.schedules.schedule import Schedule
from daybook.validation import STORED, parse_stored

_SCHEDULE = TypeAdapter[Schedule](Schedule)


_JOBS: Any = JobRow.__table__  # type: ignore[attr-defined]
_LIVE = select(
    *(_JOBS.c.id, _JOBS.c.name, _JOBS.c.owner, _JOBS.c.revision, _JOBS.c.sync_pending),
    *(_JOBS.c.skips, _JOBS.c.snoozed_until, _JOBS.c.audited_until),
).where(_JOBS.c.archived_at.is_(None))
"""The columns of the live jobs that may change within a revision."""


@dataclass(frozen=True)
class RevisionInForce:
    """The parts of a job's newest revision that decide when it is due; a revision never changes.

    ``since`` is the time at which it came into force.
    """

    enabled: bool
    since: datetime
    schedule: Schedule
    policy: Policy


@dataclass(frozen=True)
class ScheduledJob:
    """A live job in its newest revision; instants are in UTC.

    ``audited_until`` is the job's audit watermark, or the start of the revision if that is later:
    an earlier revision may have had other due times. ``stored`` is the row of `_LIVE`.
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
    in_force: RevisionInForce
    stored: Any

    @classmethod
    def of(cls, row: Any, revision: RevisionInForce) -> Self:
        """Return the job of a row of `_LIVE`."""
        return cls(
            id=row.id,
            name=row.name,
            owner=row.owner,
            revision=row.revision,
            enabled=revision.enabled,
            sync_pending=row.sync_pending,
            skips=row.skips,
            snoozed_until=row.snoozed_until,
            audited_until=max(row.audited_until, revision.since),
            schedule=revision.schedule,
            policy=revision.policy,
            in_force=revision,
            stored=row,
        )

    def next_start(self, now: datetime) -> datetime | None:
        """Return the first due time after ``now`` that is neither skipped nor snoozed, or None."""
        left_out = (self.skips, self.snoozed_until)
        return next(upcoming.starts(self.schedule, self.policy, now, *left_out), None)


async def read(
    session: AsyncSession, known: Mapping[str, ScheduledJob] | None = None
) -> dict[str, ScheduledJob]:
    """Return all live jobs by id; reuse the jobs and the revisions in ``known`` that are unchanged.

    Leave out jobs whose schedule, policy or skips cannot be read (`store.read_all`).
    """
    known, jobs, changed = known or {}, dict[str, ScheduledJob](), list[Any]()
    for row in (await session.execute(_LIVE)).all():
        before = known.get(row[0])
        if before is not None and before.stored == row:
            jobs[before.id] = before
        else:
            changed.append(row)
    revised = {
        row.id for row in changed if row.id not in known or known[row.id].revision != row.revision
    }
    revisions = await _read_revisions(session, revised) if revised else {}
    for row in changed:
        revision = revisions.get(row.id) if row.id in revised else known[row.id].in_force
        if revision is not None and stored_columns.are_skips(row.skips):
            jobs[row.id] = ScheduledJob.of(row, revision)
    return jobs


async def _read_revisions(session: AsyncSession, ids: set[str]) -> dict[str, RevisionInForce]:
    query = (
        select(
            *(col(JobRow.id), col(RevisionRow.enabled), col(RevisionRow.effective_from)),
            *(col(RevisionRow.schedule), col(RevisionRow.policy)),
        )
        .join(RevisionRow, NEWEST_REVISION)
        .where(col(JobRow.archived_at).is_(None))
    )
    if len(ids) <= stored_columns.MAX_IDS_PER_QUERY:
        query = query.where(col(JobRow.id).in_(ids))
    found = dict[str, RevisionInForce]()
    for job_id, enabled, since, schedule, policy in (await session.execute(query)).tuples():
        if job_id in ids:
            with suppress(ValidationError):
                parsed = _SCHEDULE.validate_python(schedule, context=STORED)
                policies = parse_stored(Policy, policy)
                found[job_id] = RevisionInForce(enabled, since, parsed, policies)
    return found
