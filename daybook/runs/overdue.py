"""Due times that passed and of which nothing has begun (requirement 59).

::

    no row                                    nobody has offered it to the claim
    its row waits                             and nothing of its own keeps it: no backoff, no time
                                              that was given to it
    its row says that nobody came in time     and nobody has come for a later one: `unattended`

The last is what the other two become: of a job that is due each minute the audit knows after a
minute that it is too late. `find` looks at all that it is given, once; `look` is for who looks
again and again, and costs next to nothing while nothing is late.

A run that waits its turn and asks for it again and again is late and not overdue: a limit that the
operator has set keeps it, and nobody has to see to it.
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

LATE = lateness.ON_TIME + timedelta(seconds=30)
"""So long after its due time it is told of: by then a run has begun, or the audit has judged."""
LOOKED_AT = 200
"""So many due times of a job are looked at, from its watermark on."""
MISSED_FOR = timedelta(minutes=10)
"""So long after its due time what nobody came for counts, unless somebody came since."""
PROMPTLY = timedelta(minutes=15)
"""What is judged later than that was due in a standstill, which is over."""
FIRST_LOOK = 1
"""So many of them are looked at first, as the first one mostly has no row."""
_AT_ONCE = 500


@dataclass(frozen=True)
class Overdue:
    """A due time of a job; ``run`` is its row, None where it has none.

    Of several that one row stands for it is the last.
    """

    stored: StoredJob
    due: datetime
    run: RunRow | None

    @property
    def occurrence(self) -> str:
        """Which one it is, whether or not it has its row."""
        return self.run.occurrence if self.run else claim_requests.due_key(self.stored.id, self.due)

    @property
    def overdue_since(self) -> datetime:
        """From when on no limit of the operator's explains it; of what waits its turn, to come."""
        row = self.run
        if self.missed:
            return self.due
        return max(self.due, (row and row.until) or self.due) + LATE

    @property
    def missed(self) -> bool:
        """Whether it was given up: nothing will begin any more."""
        return self.run is not None and self.run.state in TERMINAL

    @property
    def why(self) -> str:
        """What the ledger knows of what keeps it; empty where that is nothing."""
        if self.run is not None and self.run.waits_for in slots.TURNS:
            return f"it waits: {self.run.reason}"
        if self.missed:
            return "missed, nothing came for it"
        return "the job is not in Prefect yet" if self.stored.row.sync_pending else ""


@dataclass
class Memory:
    """What a watch keeps from look to look: of each job, the first due times that may concern it.

    So a schedule is asked once for each due time, and not at each look.
    """

    known: dict[str, _Known] = field(default_factory=dict)

    def soon(self, now: datetime, within: timedelta) -> int:
        """How many jobs are due, by their schedules, after the last look and ``within`` of it."""
        coming = (each.coming for each in self.known.values())
        return sum(due is not None and now < due <= now + within for due in coming)


@dataclass(frozen=True)
class _Known:
    """A job's first due time after its watermark, and the first one that was still to come."""

    revision: int
    first: datetime | None
    coming: datetime | None

    def holds(self, revision: int, start: datetime, now: datetime) -> bool:
        if self.revision != revision:
            return False
        return not (self.first and self.first <= start) and not (self.coming and self.coming <= now)


async def look(
    session: AsyncSession, memory: Memory, now: datetime, missed_for: timedelta = MISSED_FOR
) -> list[Overdue]:
    """What `find` finds of all jobs, live runs, and what was `unattended`."""
    starts = await _starts(session)
    known = {job_id: each for job_id, each in memory.known.items() if job_id in starts}
    fresh = {
        job_id
        for job_id, (revision, start) in starts.items()
        if job_id not in known or not known[job_id].holds(revision, start, now)
    }
    read = {each.id: each for each in await store.every(session, fresh)} if fresh else {}
    for job_id in fresh:
        revision, start = starts[job_id]
        known[job_id] = _ask(read[job_id], revision, start, now)
    memory.known = known
    late = {job_id for job_id, each in known.items() if each.first and each.first + LATE <= now}
    rows = [*await _waiting(session, now - LATE), *await unattended(session, now, missed_for)]
    concerned = late | {str(row.job_id) for row in rows}
    read |= {each.id: each for each in await _others(session, concerned - read.keys())}
    stored = sorted((read[each] for each in concerned & read.keys()), key=lambda job: job.row.name)
    firsts = {job_id: each.first for job_id, each in known.items()}
    return await find(session, stored, rows, now, firsts)


async def _starts(session: AsyncSession) -> dict[str, tuple[int, datetime]]:
    """Of each job that is on: its revision, and from when on a due time has no row yet."""
    newest = (
        select(JobRow.id, JobRow.revision, JobRow.audited_until, RevisionRow.effective_from)
        .join(
            RevisionRow,
            (col(RevisionRow.job_id) == col(JobRow.id))
            & (col(RevisionRow.number) == col(JobRow.revision)),
        )
        .where(col(JobRow.archived_at).is_(None), col(RevisionRow.enabled))
    )
    found = (await session.execute(newest)).tuples()
    return {job_id: (revision, max(audited, since)) for job_id, revision, audited, since in found}


def _ask(stored: StoredJob, revision: int, start: datetime, now: datetime) -> _Known:
    schedule, policy = stored.job.schedule, stored.job.policy
    first = upcoming.next_due(schedule, policy, start)
    coming = first if first is None or first > now else upcoming.next_due(schedule, policy, now)
    return _Known(revision, first, coming)


async def _waiting(session: AsyncSession, before: datetime) -> Sequence[RunRow]:
    rows = select(RunRow).where(col(RunRow.status) == Status.WAITING, col(RunRow.due) < before)
    return (await session.execute(rows.order_by(col(RunRow.due)))).scalars().all()


async def _others(session: AsyncSession, ids: set[str]) -> list[StoredJob]:
    return await store.every(session, ids) if ids else []


async def unattended(
    session: AsyncSession, now: datetime, within: timedelta = MISSED_FOR
) -> Sequence[RunRow]:
    """The newest ended row of each job for which nobody came, if it was due ``within`` so long ago.

    Not where anybody came for a later due time of the job, or runs it now; nor what was due in a
    standstill, however much of it is judged when that is over.
    """
    later = aliased(RunRow)
    of_job = select(later.id).where(col(later.job_id) == col(RunRow.job_id))
    came = of_job.where(
        col(later.due) > func.coalesce(col(RunRow.due_to), col(RunRow.due)), _came(later)
    )
    at_work = of_job.where(col(later.status).in_((Status.CLAIMED, Status.RUNNING)))
    rows = (
        select(RunRow)
        .where(
            col(RunRow.finished_at) >= now - within,
            _nobody(RunRow),
            ~came.exists(),
            ~at_work.exists(),
        )
        .order_by(col(RunRow.due))
    )
    newest: dict[str | None, RunRow] = {}
    for row in (await session.execute(rows)).scalars():
        due, judged = row.due_to or row.due, row.finished_at or now
        if now - within <= due and judged - due <= PROMPTLY:
            newest[row.job_id] = row
    return list(newest.values())


def _nobody(run: type[RunRow]) -> ColumnElement[bool]:
    """That the audit has ended it because nobody came."""
    missed = and_(
        col(run.status) == Status.MISSED, col(run.reason).startswith(audit.NOBODY, autoescape=True)
    )
    superseded = and_(col(run.status) == Status.SKIPPED, col(run.reason) == audit.SUPERSEDED)
    return or_(missed, superseded)


def _came(run: type[RunRow]) -> ColumnElement[bool]:
    untouched = and_(
        col(run.status) == Status.WAITING,
        col(run.waits_for).not_in(slots.TURNS),
        col(run.attempts) == 0,
    )
    return ~or_(untouched, _nobody(run))


async def find(
    session: AsyncSession,
    stored: Sequence[StoredJob],
    rows: Sequence[RunRow],
    now: datetime,
    firsts: Mapping[str, datetime | None] | None = None,
) -> list[Overdue]:
    """What is overdue at ``now`` of these jobs, the earliest first.

    ``rows`` are their live runs, and those that were `unattended`. ``firsts`` are first due times
    of jobs after their watermarks that are known already.

    Of each job one due time without a row at most: the first.
    """
    by_id = {each.id: each for each in stored}
    found = [
        Overdue(by_id[str(row.job_id)], row.due_to or row.due, row)
        for row in rows
        if row.job_id in by_id and (_waits_too_long(row, now) or _is_missed(row, by_id))
    ]
    found += await _without_a_row(session, stored, now, firsts or {})
    return sorted(found, key=lambda each: (each.due, each.stored.row.name))


async def _without_a_row(
    session: AsyncSession,
    stored: Sequence[StoredJob],
    now: datetime,
    firsts: Mapping[str, datetime | None],
) -> list[Overdue]:
    """Of each job its first due time that passed and has no row.

    Mostly that is the first one of all. So few are asked for at a time, and more only of those jobs
    whose first ones have rows: to expand 200 due times of 1,000 jobs takes 40 seconds.
    """
    found, many = [], FIRST_LOOK
    judged: dict[str, datetime] | None = None
    left = [(each, _passed(each, now, firsts)) for each in stored]
    while left:
        some = [(each, passed, list(islice(passed, many))) for each, passed in left]
        keys = [claim_requests.due_key(each.id, due) for each, _, dues in some for due in dues]
        have = await _with_a_row(session, keys)
        left = []
        for each, passed, dues in some:
            due = next(
                (due for due in dues if claim_requests.due_key(each.id, due) not in have), None
            )
            if due is not None:
                judged = await _judged_late(session, now) if judged is None else judged
                due = next(
                    (
                        due
                        for due in dues
                        if claim_requests.due_key(each.id, due) not in have
                        and due > judged.get(each.id, due - LATE)
                    ),
                    None,
                )
            if due is not None:
                found.append(Overdue(each, due, None))
            elif len(dues) == many:
                left.append((each, passed))
        many *= 4
    return found


def _waits_too_long(row: RunRow, now: datetime) -> bool:
    if row.state is not Status.WAITING or row.attempts or row.trigger == slots.BACKFILL:
        return False
    # Who waits for a turn asks again and again; what is waited for else, `until` says.
    since = row.due if row.waits_for in slots.TURNS else max(row.due, row.until or row.due)
    return since + LATE < now


def _is_missed(row: RunRow, by_id: dict[str, StoredJob]) -> bool:
    return row.state in TERMINAL and by_id[str(row.job_id)].job.enabled


def _passed(
    stored: StoredJob, now: datetime, firsts: Mapping[str, datetime | None]
) -> Iterator[datetime]:
    if not stored.job.enabled:
        return
    # By an earlier revision something else may have been due; the audit knows.
    start = max(stored.row.audited_until, stored.revision.effective_from)
    for due in islice(_due_after(stored, start, now - LATE, firsts), LOOKED_AT):
        if not eligibility.put_off(stored, due):
            yield due


def _due_after(
    stored: StoredJob, start: datetime, end: datetime, firsts: Mapping[str, datetime | None]
) -> Iterator[datetime]:
    """The due times in (start, end]; the schedule is not asked for the first one if it is known."""
    if stored.id in firsts:
        first = firsts[stored.id]
        if first is None or first > end:
            return
        yield first
        start = first
    yield from upcoming.between(stored.job.schedule, stored.job.policy, start, end)


async def _judged_late(session: AsyncSession, now: datetime) -> dict[str, datetime]:
    """Return up to when a claim judged the due times of each job as one range, by the job's id.

    The claim extends such a row before the audit has moved the watermark there.
    """
    fresh = (
        select(RunRow.job_id, func.max(RunRow.due_to))
        .where(
            col(RunRow.finished_at) >= now - MISSED_FOR,
            col(RunRow.due_to).is_not(None),
            col(RunRow.job_id).is_not(None),
        )
        .group_by(col(RunRow.job_id))
    )
    return {str(job_id): due_to for job_id, due_to in (await session.execute(fresh)).tuples()}


async def _with_a_row(session: AsyncSession, keys: list[str]) -> set[str]:
    have: set[str] = set()
    for start in range(0, len(keys), _AT_ONCE):
        some = col(RunRow.occurrence).in_(keys[start : start + _AT_ONCE])
        have |= set((await session.execute(select(RunRow.occurrence).where(some))).scalars())
    return have
