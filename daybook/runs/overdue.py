"""Overdue due times: those that passed without a run having started.

::

    no row                             nothing has claimed it
    a waiting row                      and nothing of its own delays it: no backoff, no later time
                                       that was set for it
    ended because nothing claimed it   and nothing has claimed a later one: `unattended`

The first two become the third: for a job that is due each minute, the audit knows after one minute
that the due time is too late. `find` checks the given jobs once. `find_all` is for repeated polling
and costs next to nothing while nothing is late.

A run that waits for its turn and keeps claiming is late but not overdue: a limit that the operator
set delays it, and the operator need not act.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice

from sqlalchemy import ColumnElement, and_, func, or_
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased
from sqlmodel import col, select

from daybook.jobs import lateness, store, upcoming
from daybook.jobs.store import StoredJob
from daybook.ledger.states import TERMINAL, Status
from daybook.ledger.tables import JobRow, RevisionRow, RunRow
from daybook.runs import audit, claim_requests, eligibility, slots

OVERDUE_GRACE = lateness.ON_TIME_GRACE + timedelta(seconds=30)
"""How long after its due time it is reported: a run has started, or the audit has judged it.
"""
MAX_DUE_TIMES = 200
"""How many due times of a job are checked, from its watermark on."""
MISSED_MAX_AGE = timedelta(minutes=10)
"""How long after its due time an unclaimed one counts, unless a later one is claimed."""
MAX_AUDIT_DELAY = timedelta(minutes=15)
"""A due time judged later than this was due during an outage, which is over."""
FIRST_PAGE_SIZE = 1
"""How many due times are checked first: mostly the first one already has no row."""
_MAX_KEYS = 500


@dataclass(frozen=True)
class Overdue:
    """A due time of a job; ``run`` is its row, None if it has none.

    If the row stands for several due times, it is the last of them.
    """

    stored: StoredJob
    due: datetime
    run: RunRow | None

    @property
    def occurrence(self) -> str:
        """Return the occurrence's key, with or without a row."""
        return self.run.occurrence if self.run else claim_requests.due_key(self.stored.id, self.due)

    @property
    def overdue_since(self) -> datetime:
        """Return since when no limit of the operator explains it; for a run in a queue, in the
        future.
        """
        row = self.run
        if self.missed:
            return self.due
        return max(self.due, (row and row.until) or self.due) + OVERDUE_GRACE

    @property
    def missed(self) -> bool:
        """Return whether it has ended, so that it will never begin."""
        return self.run is not None and self.run.state in TERMINAL

    @property
    def why(self) -> str:
        """Return what the ledger knows about the cause; empty if nothing."""
        if self.run is not None and self.run.waits_for in slots.WAITS_FOR_TURN:
            return f"waiting: {self.run.reason}"
        if self.missed:
            return "missed: no worker claimed it"
        return "the job is not in Prefect yet" if self.stored.row.sync_pending else ""


@dataclass
class DueTimeCache:
    """What a poller keeps between calls: for each job the first due times that may concern it.

    So each schedule is expanded once for each due time, and not on each call.
    """

    known: dict[str, _DueTimes] = field(default_factory=dict)

    def count_due(self, now: datetime, within: timedelta) -> int:
        """Return how many jobs are due, by their schedules, from ``now`` to ``within`` later."""
        coming = (each.coming for each in self.known.values())
        return sum(due is not None and now < due <= now + within for due in coming)


@dataclass(frozen=True)
class _DueTimes:
    """A job's first due time after its watermark, and the first one that was still to come."""

    revision: int
    first: datetime | None
    coming: datetime | None

    def is_current(self, revision: int, start: datetime, now: datetime) -> bool:
        if self.revision != revision:
            return False
        return not (self.first and self.first <= start) and not (self.coming and self.coming <= now)


async def find_all(
    session: AsyncSession,
    memory: DueTimeCache,
    now: datetime,
    missed_for: timedelta = MISSED_MAX_AGE,
) -> list[Overdue]:
    """Return what `find` returns for all jobs, their live runs, and those `unattended`."""
    starts = await _starts(session)
    known = {job_id: each for job_id, each in memory.known.items() if job_id in starts}
    changed = {
        job_id
        for job_id, (revision, start) in starts.items()
        if job_id not in known or not known[job_id].is_current(revision, start, now)
    }
    jobs = {each.id: each for each in await store.all_jobs(session, changed)} if changed else {}
    for job_id in changed:
        revision, start = starts[job_id]
        known[job_id] = _first_due_times(jobs[job_id], revision, start, now)
    memory.known = known
    late = {
        job_id for job_id, each in known.items() if each.first and each.first + OVERDUE_GRACE <= now
    }
    rows = [
        *await _waiting(session, now - OVERDUE_GRACE),
        *await unattended(session, now, missed_for),
    ]
    concerned = late | {str(row.job_id) for row in rows}
    jobs |= {each.id: each for each in await _read_jobs(session, concerned - jobs.keys())}
    stored = sorted((jobs[each] for each in concerned & jobs.keys()), key=lambda job: job.row.name)
    firsts = {job_id: each.first for job_id, each in known.items()}
    return await find(session, stored, rows, now, firsts)


async def _starts(session: AsyncSession) -> dict[str, tuple[int, datetime]]:
    """Return for each enabled job its revision, and from when on a due time has no row yet."""
    newest = (
        select(JobRow.id, JobRow.revision, JobRow.audited_until, RevisionRow.effective_from)
        .join(
            RevisionRow,
            (col(RevisionRow.job_id) == col(JobRow.id))
            & (col(RevisionRow.number) == col(JobRow.revision)),
        )
        .where(col(JobRow.archived_at).is_(None), col(RevisionRow.enabled))
    )
    jobs = (await session.execute(newest)).tuples()
    return {job_id: (revision, max(audited, since)) for job_id, revision, audited, since in jobs}


def _first_due_times(stored: StoredJob, revision: int, start: datetime, now: datetime) -> _DueTimes:
    schedule, policy = stored.job.schedule, stored.job.policy
    first = upcoming.next_due(schedule, policy, start)
    coming = first if first is None or first > now else upcoming.next_due(schedule, policy, now)
    return _DueTimes(revision, first, coming)


async def _waiting(session: AsyncSession, before: datetime) -> Sequence[RunRow]:
    rows = select(RunRow).where(col(RunRow.status) == Status.WAITING, col(RunRow.due) < before)
    return (await session.execute(rows.order_by(col(RunRow.due)))).scalars().all()


async def _read_jobs(session: AsyncSession, ids: set[str]) -> list[StoredJob]:
    return await store.all_jobs(session, ids) if ids else []


async def unattended(
    session: AsyncSession, now: datetime, within: timedelta = MISSED_MAX_AGE
) -> Sequence[RunRow]:
    """Return the newest ended run of each job that nothing claimed, if due at most ``within`` ago.

    Excludes jobs for which a later due time was claimed or a run is in progress, and due times
    during an outage, however many of them are judged when it is over.
    """
    later = aliased(RunRow)
    of_job = select(later.id).where(col(later.job_id) == col(RunRow.job_id))
    claimed_later = of_job.where(
        col(later.due) > func.coalesce(col(RunRow.due_to), col(RunRow.due)), _is_claimed(later)
    )
    in_progress = of_job.where(col(later.status).in_((Status.CLAIMED, Status.RUNNING)))
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
    """Return the condition that the audit ended the run because nothing claimed it."""
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
        col(run.waits_for).not_in(slots.WAITS_FOR_TURN),
        col(run.attempts) == 0,
    )
    return ~or_(untouched, _is_unclaimed(run))


async def find(
    session: AsyncSession,
    stored: Sequence[StoredJob],
    rows: Sequence[RunRow],
    now: datetime,
    firsts: Mapping[str, datetime | None] | None = None,
) -> list[Overdue]:
    """Return the overdue due times of these jobs at ``now``, earliest first.

    ``rows`` are the live runs of these jobs, and those `unattended`. ``firsts`` are first due times
    after the watermark that the caller already knows, by job id. For each job, at most one due time
    without a row is returned: the first.
    """
    by_id = {each.id: each for each in stored}
    overdue = [
        Overdue(by_id[str(row.job_id)], row.due_to or row.due, row)
        for row in rows
        if row.job_id in by_id and (_waits_too_long(row, now) or _is_missed(row, by_id))
    ]
    overdue += await _without_a_row(session, stored, now, firsts or {})
    return sorted(overdue, key=lambda each: (each.due, each.stored.row.name))


async def _without_a_row(
    session: AsyncSession,
    stored: Sequence[StoredJob],
    now: datetime,
    firsts: Mapping[str, datetime | None],
) -> list[Overdue]:
    """Return for each job its first due time that passed and has no row.

    Mostly it is the very first one, so a few are read at a time, and more only for the jobs whose
    first ones have rows: expanding 200 due times of 1,000 jobs takes 40 seconds.
    """
    overdue, page_size = [], FIRST_PAGE_SIZE
    judged: dict[str, datetime] | None = None
    remaining = [(each, _passed_due_times(each, now, firsts)) for each in stored]
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
            due = next(
                (due for due in due_times if claim_requests.due_key(each.id, due) not in existing),
                None,
            )
            if due is not None:
                judged = await _judged_late(session, now) if judged is None else judged
                due = next(
                    (
                        due
                        for due in due_times
                        if claim_requests.due_key(each.id, due) not in existing
                        and due > judged.get(each.id, due - OVERDUE_GRACE)
                    ),
                    None,
                )
            if due is not None:
                overdue.append(Overdue(each, due, None))
            elif len(due_times) == page_size:
                remaining.append((each, passed))
        page_size *= 4
    return overdue


def _waits_too_long(row: RunRow, now: datetime) -> bool:
    if row.state is not Status.WAITING or row.attempts or row.trigger == slots.BACKFILL:
        return False
    # A run that waits for its turn claims repeatedly; any other wait ends at `until`.
    since = row.due if row.waits_for in slots.WAITS_FOR_TURN else max(row.due, row.until or row.due)
    return since + OVERDUE_GRACE < now


def _is_missed(row: RunRow, by_id: dict[str, StoredJob]) -> bool:
    return row.state in TERMINAL and by_id[str(row.job_id)].job.enabled


def _passed_due_times(
    stored: StoredJob, now: datetime, firsts: Mapping[str, datetime | None]
) -> Iterator[datetime]:
    if not stored.job.enabled:
        return
    # An earlier revision may have had other due times; the audit judges those.
    start = max(stored.row.audited_until, stored.revision.effective_from)
    for due in islice(_due_after(stored, start, now - OVERDUE_GRACE, firsts), MAX_DUE_TIMES):
        if not eligibility.manual_skip_reason(stored, due):
            yield due


def _due_after(
    stored: StoredJob, start: datetime, end: datetime, firsts: Mapping[str, datetime | None]
) -> Iterator[datetime]:
    """Yield the due times in (start, end]; knowing the first one saves expanding the schedule."""
    if stored.id in firsts:
        first = firsts[stored.id]
        if first is None or first > end:
            return
        yield first
        start = first
    yield from upcoming.between(stored.job.schedule, stored.job.policy, start, end)


async def _judged_late(session: AsyncSession, now: datetime) -> dict[str, datetime]:
    """Return, by job id, the end of the newest range of due times that a claim judged at once.

    The claim extends such a row before the audit has moved the watermark there.
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
