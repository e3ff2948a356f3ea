"""Overdue due times: those that have passed although no run has started.

::

    no row                             nothing has claimed it
    a waiting row                      and nothing of its own delays it: no backoff, no later time
                                       that was set for it
    ended because nothing claimed it   and nothing has claimed a later one: `unattended`

The first two become the third: for a job that is due each minute, the audit knows after one minute
that the due time is too late. `find` checks the given jobs once. `find_all` is for repeated polling
and costs next to nothing while nothing is late.

A run that waits for its turn and keeps claiming is late but not overdue: a limit that the operator
set delays it, and the operator need not act. `find` returns such a run too, with an `overdue_since`
in the future.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice

from sqlalchemy import ColumnElement, and_, func, or_
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased
from sqlmodel import col, select

from daybook.jobs import lateness, store, upcoming
from daybook.jobs.store import StoredJob
from daybook.ledger.states import HELD, TERMINAL, Status
from daybook.ledger.tables import NEWEST_REVISION, JobRow, RevisionRow, RunRow
from daybook.runs import audit, claim_requests, eligibility, maintenance, slots
from daybook.runs.maintenance import Windows

OVERDUE_GRACE = lateness.ON_TIME_GRACE + timedelta(seconds=30)
"""Delay after which a due time counts as overdue.

Until then, its run may start, or the audit may judge it.
"""
MAX_DUE_TIMES = 200
"""Maximum number of due times of a job that are checked, from its watermark on."""
MISSED_MAX_AGE = timedelta(minutes=10)
"""How long an unclaimed due time counts as overdue, unless a later one is claimed."""
MAX_AUDIT_DELAY = timedelta(minutes=15)
"""Maximum delay of a judgement; a due time that is judged later fell into an outage that is over.
"""
FIRST_PAGE_SIZE = 1
"""Number of due times that are checked first: usually the very first one has no row."""
_MAX_KEYS = 500


@dataclass(frozen=True)
class Overdue:
    """A due time of a job; ``run`` is its row, None if it has none.

    If the row stands for several due times, ``due`` is the last of them.
    """

    stored: StoredJob
    due: datetime
    run: RunRow | None

    @property
    def occurrence(self) -> str:
        """Return the occurrence's key, whether it has a row or not."""
        return self.run.occurrence if self.run else claim_requests.due_key(self.stored.id, self.due)

    @property
    def overdue_since(self) -> datetime:
        """Return when the due time became overdue, or will become so if its run still waits.

        From then on, no limit that the operator set explains the delay. For a missed due time, this
        is the due time itself.
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
    def why(self) -> str:
        """Return what the ledger knows about the cause; empty if nothing."""
        if self.run is not None and self.run.waits_for in slots.WAITS_FOR_TURN:
            return f"waiting: {self.run.reason}"
        if self.missed:
            return "missed: no worker claimed it"
        return "the job's last change is not in Prefect yet" if self.stored.row.sync_pending else ""


@dataclass
class DueTimeCache:
    """A poller's cache between calls: for each job, the first due times that may be relevant.

    With it, a schedule is expanded once for each due time, not on every call.
    """

    known: dict[str, _DueTimes] = field(default_factory=dict)

    def count_due(self, now: datetime, within: timedelta) -> int:
        """Return how many jobs have a scheduled due time in (``now``, ``now`` + ``within``]."""
        coming = (each.coming for each in self.known.values())
        return sum(due is not None and now < due <= now + within for due in coming)


@dataclass(frozen=True)
class _DueTimes:
    """A job's first due time that is not audited, and its first one in the future."""

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
    """Return the overdue due times of all jobs, as `find` does; keep ``memory`` between calls.

    Missed due times are included if they were due at most ``missed_for`` ago.
    """
    starts = await _starts(session)
    known = {job_id: each for job_id, each in memory.known.items() if job_id in starts}
    changed = {
        job_id
        for job_id, (revision, start) in starts.items()
        if job_id not in known or not known[job_id].is_current(revision, start, now)
    }
    jobs = {each.id: each for each in await store.all_jobs(session, changed)} if changed else {}
    for job_id in changed:
        (revision, start), job = starts[job_id], jobs[job_id].job
        first = coming = upcoming.next_due(job.schedule, job.policy, start)
        if first is not None and first <= now:
            coming = upcoming.next_due(job.schedule, job.policy, now)
        known[job_id] = _DueTimes(revision, first, coming)
    memory.known = known
    late = {
        job_id for job_id, each in known.items() if each.first and each.first + OVERDUE_GRACE <= now
    }
    rows = [
        *await _waiting(session, now - OVERDUE_GRACE),
        *await unattended(session, now, missed_for),
    ]
    concerned = late | {str(row.job_id) for row in rows}
    if unread := concerned - jobs.keys():
        jobs |= {each.id: each for each in await store.all_jobs(session, unread)}
    stored = sorted((jobs[each] for each in concerned & jobs.keys()), key=lambda job: job.row.name)
    firsts = {job_id: each.first for job_id, each in known.items()}
    return await find(session, stored, rows, now, firsts)


async def _starts(session: AsyncSession) -> dict[str, tuple[int, datetime]]:
    """Return, by job id, each enabled job's newest revision, and the time it is audited up to.

    That is the watermark, but not before the revision came into force.
    """
    newest = (
        select(JobRow.id, JobRow.revision, JobRow.audited_until, RevisionRow.effective_from)
        .join(RevisionRow, NEWEST_REVISION)
        .where(col(JobRow.archived_at).is_(None), col(RevisionRow.enabled))
    )
    jobs = (await session.execute(newest)).tuples()
    return {job_id: (revision, max(audited, since)) for job_id, revision, audited, since in jobs}


async def _waiting(session: AsyncSession, before: datetime) -> Sequence[RunRow]:
    rows = select(RunRow).where(col(RunRow.status) == Status.WAITING, col(RunRow.due) < before)
    return (await session.execute(rows.order_by(col(RunRow.due)))).scalars().all()


async def unattended(
    session: AsyncSession, now: datetime, within: timedelta = MISSED_MAX_AGE
) -> Sequence[RunRow]:
    """Return each job's newest ended run that nothing claimed, if due at most ``within`` ago.

    Excludes jobs with a run in progress, or with a later run that was claimed or decided otherwise,
    and due times that were judged more than `MAX_AUDIT_DELAY` after they were due: they fell into
    an outage.
    """
    later = aliased(RunRow)
    of_job = select(later.id).where(col(later.job_id) == col(RunRow.job_id))
    claimed_later = of_job.where(
        col(later.due) > func.coalesce(col(RunRow.due_to), col(RunRow.due)), _is_claimed(later)
    )
    in_progress = of_job.where(col(later.status).in_(HELD))
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
    """Return the condition for runs that the audit ended because nothing claimed them."""
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

    ``rows`` are the live runs of these jobs and the result of `unattended`. ``firsts`` maps job ids
    to the first due times after the watermark, as far as the caller knows them. For each job, at
    most one due time without a row is returned: the first. In a maintenance window nothing is
    expected to start, so delays count from its end.
    """
    by_id = {each.id: each for each in stored}
    windows = await maintenance.read(session)
    overdue = [
        Overdue(by_id[str(row.job_id)], row.due_to or row.due, row)
        for row in rows
        if row.job_id in by_id and (_waits_too_long(row, now, windows) or _is_missed(row, by_id))
    ]
    overdue += [
        each
        for each in await _without_a_row(session, stored, now, firsts or {})
        if windows.start_after(each.due, now) + OVERDUE_GRACE <= now
    ]
    return sorted(overdue, key=lambda each: (each.due, each.stored.row.name))


def first_due_times(stored: Iterable[StoredJob]) -> dict[str, datetime | None]:
    """Return the first due time of each enabled job after its watermark, for `find`."""
    return {
        each.id: upcoming.next_due(each.job.schedule, each.job.policy, _watermark(each))
        for each in stored
        if each.job.enabled
    }


def _watermark(stored: StoredJob) -> datetime:
    # An earlier revision may have had other due times; the audit judges those.
    return max(stored.row.audited_until, stored.revision.effective_from)


async def _without_a_row(
    session: AsyncSession,
    stored: Sequence[StoredJob],
    now: datetime,
    firsts: Mapping[str, datetime | None],
) -> list[Overdue]:
    """Return each job's first due time that has passed and has no row.

    Usually that is the very first one that has passed. So `FIRST_PAGE_SIZE` due times of each job
    are read at first, and more only for jobs where all of them have rows: expanding 200 due times
    of 1,000 jobs takes 40 seconds.
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


def _waits_too_long(row: RunRow, now: datetime, windows: Windows) -> bool:
    if row.state is not Status.WAITING or row.attempts or row.trigger == slots.BACKFILL:
        return False
    # A run that waits for its turn claims repeatedly; any other wait ends at `until`.
    since = row.due if row.waits_for in slots.WAITS_FOR_TURN else max(row.due, row.until or row.due)
    return windows.start_after(since, now) + OVERDUE_GRACE < now


def _is_missed(row: RunRow, by_id: dict[str, StoredJob]) -> bool:
    return row.state in TERMINAL and by_id[str(row.job_id)].job.enabled


def _passed_due_times(
    stored: StoredJob, now: datetime, firsts: Mapping[str, datetime | None]
) -> Iterator[datetime]:
    if not stored.job.enabled:
        return
    due_times = _due_after(stored, _watermark(stored), now - OVERDUE_GRACE, firsts)
    for due in islice(due_times, MAX_DUE_TIMES):
        if not eligibility.manual_skip_reason(stored, due):
            yield due


def _due_after(
    stored: StoredJob, start: datetime, end: datetime, firsts: Mapping[str, datetime | None]
) -> Iterator[datetime]:
    """Yield the due times in (start, end]; if ``firsts`` has the first one, it is not computed."""
    if stored.id in firsts:
        first = firsts[stored.id]
        if first is None or first > end:
            return
        yield first
        start = first
    yield from upcoming.between(stored.job.schedule, stored.job.policy, start, end)


async def _judged_late(session: AsyncSession, now: datetime) -> dict[str, datetime]:
    """Return, by job id, the end of the newest range that was judged within `MISSED_MAX_AGE`.

    A claim may extend a range before the audit has moved the watermark there.
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
