"""Overdue due times: due times that have passed although no run has started.

::

    no row                               no process has claimed the due time
    a waiting row                        the row itself sets no delay: no backoff, no later time
    ended because no process claimed it  no process has claimed a later due time: `unattended`

The audit may turn the first two cases into the third: for a job that is due each minute, the due
time is too late after one minute. With a `DueTimeCache`, `find_all` costs next to nothing while no
due time is late.

A run that waits for its turn and keeps claiming is late but not overdue: a limit that the operator
set delays the run, and the operator need not act. `find_all` returns such a run too, with an
`overdue_since` in the future.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import chain, islice

from sqlalchemy import ColumnElement, and_, func, or_
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased
from sqlmodel import col, select

from daybook.jobs import lateness, scheduled, upcoming
from daybook.jobs.scheduled import ScheduledJob
from daybook.ledger import waits
from daybook.ledger.states import HELD, TERMINAL, Status
from daybook.ledger.tables import RunRow
from daybook.runs import audit, claim_requests, eligibility, maintenance
from daybook.runs.maintenance import Windows
from daybook.schedules.zones import is_known

OVERDUE_GRACE = lateness.ON_TIME_GRACE + timedelta(seconds=30)
"""Delay after which a due time counts as overdue.

Until then, the run may start, or the audit may decide about the due time.
"""
MAX_DUE_TIMES = 200
"""Maximum number of a job's due times that `find_all` checks, from the job's watermark on."""
MISSED_MAX_AGE = timedelta(minutes=10)
"""How long an unclaimed due time counts as overdue, unless a process claims a later due time."""
MAX_AUDIT_DELAY = timedelta(minutes=15)
"""Maximum delay of the audit.

If the audit decides about a due time later than this, the due time fell into an outage that is
over.
"""
FIRST_PAGE_SIZE = 1
"""Number of a job's due times that `find_all` checks first; usually, the first one has no row."""
_MAX_KEYS = 500
_OTHER = aliased(RunRow)
"""Another run of the same job. The keeper reads often, and an alias takes 1 ms to create."""


@dataclass(frozen=True)
class Overdue:
    """A due time of a job; ``run`` is its row, None if it has none.

    If the row stands for several due times, ``due`` is the last of them.
    """

    job: ScheduledJob
    due: datetime
    run: RunRow | None

    @property
    def occurrence(self) -> str:
        """Return the key of the occurrence, which may have no row."""
        return self.run.occurrence if self.run else claim_requests.due_key(self.job.id, self.due)

    @property
    def overdue_since(self) -> datetime:
        """Return when the due time became overdue, or will become overdue if its run still waits.

        From then on, no limit of the operator explains the delay. A missed due time is overdue at
        once.
        """
        row = self.run
        if self.missed:
            return self.due
        return max(self.due, (row and row.until) or self.due) + OVERDUE_GRACE

    @property
    def missed(self) -> bool:
        """Return whether the due time has a run that ended without a start."""
        return self.run is not None and self.run.state in TERMINAL

    @property
    def retries(self) -> bool:
        """Return whether the run waits for its next attempt."""
        return self.run is not None and not self.missed and self.run.attempts > 0

    @property
    def why(self) -> str:
        """Return the cause of the delay according to the ledger; "" if the ledger shows none."""
        if self.run is not None and self.run.wait_reason.for_runs:
            return f"waiting: {self.run.reason}"
        if self.missed:
            return "missed: no worker claimed it"
        return "the job's last change is not in Prefect yet" if self.job.sync_pending else ""


@dataclass
class DueTimeCache:
    """Cache that a poller keeps between calls of `find_all`: live jobs, with their next due times.

    With the cache, a schedule is read once for each revision, and each due time is computed once.
    """

    jobs: dict[str, ScheduledJob] = field(default_factory=dict)
    firsts: dict[str, _FirstDue] = field(default_factory=dict)
    coming: dict[str, _FirstDue] = field(default_factory=dict)

    async def update(self, session: AsyncSession) -> None:
        """Read the live jobs again, and drop the due times of changed jobs."""
        before, self.jobs = self.jobs, await scheduled.read(session, self.jobs)
        for job in before.values():
            if job.id not in self.jobs or self.jobs[job.id].revision != job.revision:
                self.firsts.pop(job.id, None)
                self.coming.pop(job.id, None)

    def first(self, job: ScheduledJob) -> datetime | None:
        """Return the job's first due time after its watermark; None if there is none."""
        return self._after(self.firsts, job, job.audited_until)

    def next_due_times(self, now: datetime) -> Iterator[tuple[ScheduledJob, datetime]]:
        """Yield each enabled job that has a due time after ``now``, with its first such time."""
        for job in self.jobs.values():
            if job.enabled and (due := self._after(self.coming, job, now)):
                yield job, due

    def count_due(self, now: datetime, within: timedelta) -> int:
        """Return how many jobs have a scheduled due time in (``now``, ``now`` + ``within``]."""
        return sum(due <= now + within for _, due in self.next_due_times(now))

    def _after(
        self, known: dict[str, _FirstDue], job: ScheduledJob, start: datetime
    ) -> datetime | None:
        if not is_known(job.schedule.timezone):
            return None  # the audit and the list report such a job
        each = known.get(job.id)
        if each is None or not each.is_first_after(start):
            each = _FirstDue(start, upcoming.next_due(job.schedule, job.policy, start))
            known[job.id] = each
        return each.due


@dataclass(frozen=True)
class _FirstDue:
    """The first due time after ``start``; None if there is none."""

    start: datetime
    due: datetime | None

    def is_first_after(self, start: datetime) -> bool:
        return start >= self.start and (self.due is None or start < self.due)


async def find_all(
    session: AsyncSession,
    memory: DueTimeCache,
    now: datetime,
    missed_for: timedelta = MISSED_MAX_AGE,
) -> list[Overdue]:
    """Return the overdue due times of all jobs, earliest first; keep ``memory`` between calls.

    Include missed due times that were due at most ``missed_for`` ago. Of each job, return at most
    one due time without a row: the first. No run is expected to start in a maintenance window, so
    count delays from the end of the window.
    """
    await memory.update(session)
    jobs, windows = memory.jobs, await maintenance.read(session)
    rows = [
        *await _waiting(session, now - OVERDUE_GRACE),
        *await unattended(session, now, missed_for),
    ]
    overdue = [
        Overdue(jobs[str(row.job_id)], row.due_to or row.due, row)
        for row in rows
        if row.job_id in jobs
        and (_waits_too_long(row, now, windows) or _is_missed(row, jobs[str(row.job_id)]))
    ]
    overdue += [
        each
        for each in await _without_a_row(session, memory, now)
        if windows.start_after(each.due, now) + OVERDUE_GRACE <= now
    ]
    return sorted(overdue, key=lambda each: (each.due, each.job.name))


async def _waiting(session: AsyncSession, before: datetime) -> Sequence[RunRow]:
    rows = select(RunRow).where(col(RunRow.status) == Status.WAITING, col(RunRow.due) < before)
    return (await session.execute(rows.order_by(col(RunRow.due)))).scalars().all()


async def unattended(
    session: AsyncSession, now: datetime, within: timedelta = MISSED_MAX_AGE
) -> Sequence[RunRow]:
    """Return each job's newest ended run that no process claimed, due at most ``within`` ago.

    Leave out jobs with a run in progress, or with a later run that a process claimed or that ended
    for another reason. Leave out due times that the audit decided more than `MAX_AUDIT_DELAY` after
    they were due, because they fell into an outage.
    """
    of_job = select(_OTHER.id).where(col(_OTHER.job_id) == col(RunRow.job_id))
    claimed_later = of_job.where(
        col(_OTHER.due) > func.coalesce(col(RunRow.due_to), col(RunRow.due)), _is_claimed(_OTHER)
    )
    in_progress = of_job.where(col(_OTHER.status).in_(HELD))
    rows = (
        select(RunRow)
        .where(
            col(RunRow.finished_at) >= now - within,
            _is_unclaimed(RunRow),
            ~claimed_later.exists(),
            ~in_progress.exists(),
        )
        .order_by(col(RunRow.due))
    )
    newest: dict[str | None, RunRow] = {}
    for row in (await session.execute(rows)).scalars():
        due, judged = row.due_to or row.due, row.finished_at or now
        if now - within <= due and judged - due <= MAX_AUDIT_DELAY:
            newest[row.job_id] = row
    return list(newest.values())


def _is_unclaimed(run: type[RunRow]) -> ColumnElement[bool]:
    """Return the condition for runs that the audit ended because no process claimed them."""
    is_missed = and_(
        col(run.status) == Status.MISSED,
        col(run.reason).startswith(audit.NOT_RUN_REASON, autoescape=True),
    )
    is_superseded = and_(
        col(run.status) == Status.SKIPPED, col(run.reason) == audit.SUPERSEDED_REASON
    )
    return or_(is_missed, is_superseded)


def _is_claimed(run: type[RunRow]) -> ColumnElement[bool]:
    untouched = and_(
        col(run.status) == Status.WAITING,
        col(run.waits_for).not_in(waits.names(lambda each: each.for_runs)),
        col(run.attempts) == 0,
    )
    return ~or_(untouched, _is_unclaimed(run))


async def _without_a_row(
    session: AsyncSession, memory: DueTimeCache, now: datetime
) -> list[Overdue]:
    """Return each job's first due time that has passed and has no row.

    Usually this is the first due time after the watermark. So at first compute only
    `FIRST_PAGE_SIZE` due times of each job, and then more only for a job whose computed due times
    all have rows. Computing 200 due times of 1,000 jobs takes 40 seconds. Do not read the schedule
    of a job that was audited recently, because it has no such due time.
    """
    overdue, page_size, end = list[Overdue](), FIRST_PAGE_SIZE, now - OVERDUE_GRACE
    judged: dict[str, datetime] | None = None
    remaining = [
        (each, _passed_due_times(each, first, end))
        for each in memory.jobs.values()
        if each.enabled
        and each.audited_until < end
        and (first := memory.first(each))
        and first <= end
    ]
    while remaining:
        pages = [(each, passed, list(islice(passed, page_size))) for each, passed in remaining]
        keys = [
            claim_requests.due_key(each.id, due)
            for each, _, due_times in pages
            for due in due_times
        ]
        existing = await _with_a_row(session, keys)
        remaining = []
        for each, passed, due_times in pages:
            without = [
                due for due in due_times if claim_requests.due_key(each.id, due) not in existing
            ]
            if without:
                judged = await _judged_late(session, now) if judged is None else judged
                until = judged.get(each.id)
                without = [due for due in without if until is None or due > until]
            if without:
                overdue.append(Overdue(each, without[0], None))
            elif len(due_times) == page_size:
                remaining.append((each, passed))
        page_size *= 4
    return overdue


def _waits_too_long(row: RunRow, now: datetime, windows: Windows) -> bool:
    if row.state is not Status.WAITING or row.started_by.is_backfill:
        return False
    # A run that waits for other runs claims repeatedly; any other wait ends at `until`.
    since = row.due if row.wait_reason.for_runs else max(row.due, row.until or row.due)
    return windows.start_after(since, now) + OVERDUE_GRACE < now


def _is_missed(row: RunRow, job: ScheduledJob) -> bool:
    return row.state in TERMINAL and job.enabled


def _passed_due_times(job: ScheduledJob, first: datetime, end: datetime) -> Iterator[datetime]:
    """Yield the due times from ``first`` to ``end`` that the user has not skipped or snoozed."""
    later = upcoming.between(job.schedule, job.policy, first, end)
    for due in islice(chain([first], later), MAX_DUE_TIMES):
        if not eligibility.manual_skip_reason(job, due):
            yield due


async def _judged_late(session: AsyncSession, now: datetime) -> dict[str, datetime]:
    """Return, by job id, the end of the newest range that was written in the last `MISSED_MAX_AGE`.

    A claim may extend a range before the audit has moved the watermark to the range's new end.
    """
    recent = (
        select(RunRow.job_id, func.max(RunRow.due_to))
        .where(
            col(RunRow.finished_at) >= now - MISSED_MAX_AGE,
            col(RunRow.due_to).is_not(None),
            col(RunRow.job_id).is_not(None),
        )
        .group_by(col(RunRow.job_id))
    )
    return {str(job_id): due_to for job_id, due_to in (await session.execute(recent)).tuples()}


async def _with_a_row(session: AsyncSession, keys: list[str]) -> set[str]:
    existing: set[str] = set()
    for start in range(0, len(keys), _MAX_KEYS):
        page = col(RunRow.occurrence).in_(keys[start : start + _MAX_KEYS])
        existing |= set((await session.execute(select(RunRow.occurrence).where(page))).scalars())
    return existing
