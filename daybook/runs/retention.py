"""Retention: deletion of old runs, sessions, outbox rows and archived jobs, by age and by count.

::

    a run of a job     older than the age, or beyond the newest N runs of its job
    a session          its messages on the same terms, two for each run, except those that a model
                       is given; a session that no job or run uses any more goes as a whole
    the outbox         finished rows, with their run or by age; never the answer that the next one
                       is compared with, nor a pending row: its run stays with it
    an archived job    when nothing else of it is left

Never deleted: live runs, unmirrored runs, due times after their job's watermark (the audit would
judge them again), request ids that may be repeated, custom runs whose end in Prefect may be read
again (without a row the run would begin anew), and runs that a live one retries. Each batch is a
transaction of its own, so no other writer waits long, and after a crash the next call continues.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, delete, exists, func, or_, true
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased
from sqlmodel import col, select

from daybook import settings
from daybook.delivery import outbox
from daybook.jobs import store
from daybook.jobs.store import StoredJob
from daybook.ledger.engine import Ledger
from daybook.ledger.states import LIVE, TERMINAL, Delivery
from daybook.ledger.tables import (
    AttemptRow,
    JobRow,
    LaneRow,
    MessageRow,
    OutboxRow,
    RevisionRow,
    RunRow,
    SessionRow,
)
from daybook.runs import prefect_ends, sessions

BATCH_SIZE = 500
"""How many rows one transaction deletes."""
REQUEST_MIN_AGE = timedelta(days=7)
"""How long a request id is kept at least: the same id again requests no second run."""
PREFECT_RUN_MIN_AGE = timedelta(days=2)
"""How long a run that was started in Prefect is kept after the keeper has read the ends up to its
own.

Its end may be read again, and a run that is mirrored late ends late in Prefect.
"""


@dataclass(frozen=True)
class RetentionLimits:
    """The limits: ``age`` since a run ended, the newest ``runs`` of each job; None keeps all."""

    age: timedelta | None
    runs: int | None

    @classmethod
    def of_settings(cls) -> RetentionLimits:
        """Return the limits of this home's settings."""
        loaded = settings.load()
        age = timedelta(days=loaded.keep_days) if loaded.keep_days else None
        return cls(age, loaded.keep_runs or None)

    def since(self, now: datetime) -> datetime:
        """Return the cutoff: anything that ended before it is deleted."""
        return datetime.min.replace(tzinfo=now.tzinfo) if self.age is None else now - self.age


# --- runs


async def jobs_to_prune(ledger: Ledger, keep: RetentionLimits) -> list[str | None]:
    """Return the ids of jobs that may have runs to delete; None stands for runs without a job."""
    old = func.min(RunRow.due) < keep.since(ledger.now())
    many = func.count() > keep.runs if keep.runs is not None else old
    grouped = select(RunRow.job_id).group_by(col(RunRow.job_id)).having(or_(old, many))
    async with ledger.read() as session:
        return list((await session.execute(grouped)).scalars())


async def prune_runs(ledger: Ledger, job_id: str | None, keep: RetentionLimits) -> int:
    """Delete one batch of the job's runs, oldest first; return how many runs that were."""
    async with ledger.write() as session:
        conditions = await _deletable(session, job_id, keep, ledger.now())
        oldest = select(RunRow.id).where(*conditions).order_by(col(RunRow.due)).limit(BATCH_SIZE)
        run_ids = list((await session.execute(oldest)).scalars())
        if run_ids:
            delete_outbox = delete(OutboxRow).where(
                col(OutboxRow.run_id).in_(run_ids), ~_is_last_answer()
            )
            await session.execute(delete_outbox)
            await session.execute(delete(AttemptRow).where(col(AttemptRow.run_id).in_(run_ids)))
            await session.execute(delete(RunRow).where(col(RunRow.id).in_(run_ids)))
        return len(run_ids)


async def _deletable(
    session: AsyncSession, job_id: str | None, keep: RetentionLimits, now: datetime
) -> list[ColumnElement[bool]]:
    of_job = col(RunRow.job_id) == job_id if job_id else col(RunRow.job_id).is_(None)
    past = [col(RunRow.finished_at) < keep.since(now)]
    if keep.runs is not None:
        newest = select(RunRow.due).where(of_job).order_by(col(RunRow.due).desc())
        oldest_kept = (
            await session.execute(newest.offset(keep.runs - 1).limit(1))
        ).scalar_one_or_none()
        if oldest_kept is not None:
            past.append(col(RunRow.due) < oldest_kept)
    retry = aliased(RunRow)
    has_live_retry = exists().where(
        col(retry.retry_of) == col(RunRow.id), col(retry.status).in_(LIVE)
    )
    is_recent_request = col(RunRow.occurrence).startswith("request:") & (
        col(RunRow.queued_at) > now - REQUEST_MIN_AGE
    )
    # A direct call has no job: its end is never read.
    is_custom = col(RunRow.occurrence).startswith("flow:") & col(RunRow.job_id).is_not(None)
    read_to = await prefect_ends.read_until(session)
    may_be_read_again = is_custom & (
        (col(RunRow.finished_at) > min(read_to, now) - PREFECT_RUN_MIN_AGE) if read_to else true()
    )
    conditions: list[ColumnElement[bool]] = [
        col(RunRow.status).in_(TERMINAL),
        col(RunRow.unmirrored).is_(False),
    ]
    row = await session.get(JobRow, job_id) if job_id else None
    if row is not None:
        timed = col(RunRow.occurrence).startswith("due:")
        conditions.append(~timed | (col(RunRow.due) <= row.audited_until))
    has_pending = exists().where(col(OutboxRow.run_id) == col(RunRow.id), outbox.PENDING)
    return [
        of_job,
        or_(*past),
        *conditions,
        ~is_recent_request,
        ~may_be_read_again,
        ~has_live_retry,
        ~has_pending,
    ]


# --- the outbox


async def prune_outbox(ledger: Ledger, keep: RetentionLimits) -> int:
    """Delete one batch of finished outbox rows, oldest first; return how many that were.

    Rows of a run are deleted with it; this function deletes older ones and those without a run.
    """
    old = (
        select(OutboxRow.id)
        .where(
            col(OutboxRow.created_at) < keep.since(ledger.now()),
            col(OutboxRow.finished_at) < keep.since(ledger.now()),
            ~outbox.PENDING,
            ~_is_last_answer(),
        )
        .order_by(col(OutboxRow.created_at))
        .limit(BATCH_SIZE)
    )
    async with ledger.read() as session:
        if (await session.execute(old.limit(1))).first() is None:
            return 0
    async with ledger.write() as session:
        outbox_ids = list((await session.execute(old)).scalars())
        await session.execute(delete(OutboxRow).where(col(OutboxRow.id).in_(outbox_ids)))
        # Forget the failures of a destination that has no pending message.
        has_pending = exists().where(col(OutboxRow.lane) == col(LaneRow.lane), outbox.PENDING)
        await session.execute(
            delete(LaneRow).where(col(LaneRow.since) < keep.since(ledger.now()), ~has_pending)
        )
        return len(outbox_ids)


def _is_last_answer() -> ColumnElement[bool]:
    """Return the condition for the last answer of a live job to a channel.

    `only_changed` compares the next answer with it.
    """
    later = aliased(OutboxRow)
    same = [
        col(getattr(later, name)) == col(getattr(OutboxRow, name))
        for name in ("job_id", "address", "chat_id")
    ]
    has_later = exists().where(
        *same,
        col(later.digest) != "",
        col(later.status) != Delivery.FAILED,
        col(later.created_at) > col(OutboxRow.created_at),
    )
    live = exists().where(
        col(JobRow.id) == col(OutboxRow.job_id), col(JobRow.archived_at).is_(None)
    )
    return (
        (col(OutboxRow.digest) != "")
        & (col(OutboxRow.status) != Delivery.FAILED)
        & live
        & ~has_later
    )


# --- conversations


def _unused_sessions(since: datetime) -> list[ColumnElement[bool]]:
    """Return the conditions for sessions that go as a whole: no run uses or will use them."""
    of_session = col(RunRow.session_id) == col(SessionRow.id)
    of_one_run = col(SessionRow.id).startswith(col(SessionRow.agent) + ":run:")
    removed = exists().where(
        col(JobRow.id) == col(SessionRow.job_id), col(JobRow.archived_at).is_not(None)
    )
    unused = (col(SessionRow.updated_at) < since) & or_(
        col(SessionRow.job_id).is_(None), of_one_run, removed
    )
    alone = of_one_run & col(SessionRow.job_id).is_not(None) & ~exists().where(of_session)
    return [~exists().where(of_session, col(RunRow.status).in_(LIVE)), or_(unused, alone)]


async def sessions_to_prune(ledger: Ledger, keep: RetentionLimits) -> list[str]:
    """Return the ids of sessions that may be too long, too old, or no longer used."""
    since = keep.since(ledger.now())
    span = func.max(MessageRow.number) - func.min(MessageRow.number)
    grouped = select(MessageRow.session_id).group_by(col(MessageRow.session_id))
    unused = select(SessionRow.id).where(*_unused_sessions(since))
    old = select(SessionRow.id).where(col(SessionRow.created_at) < since)
    async with ledger.read() as session:
        session_ids = [*(await session.execute(unused)).scalars()]
        session_ids += (await session.execute(old)).scalars()
        if keep.runs is not None:
            long = grouped.having(span >= max(2 * keep.runs, sessions.MAX_HISTORY_MESSAGES))
            session_ids += (await session.execute(long)).scalars()
    return list(dict.fromkeys(session_ids))


async def prune_messages(ledger: Ledger, session_id: str, keep: RetentionLimits) -> int:
    """Delete one batch of a session's messages, oldest first; return how many.

    After its last message the session itself is deleted, which counts as one.
    """
    since = keep.since(ledger.now())
    of_session = col(MessageRow.session_id) == session_id
    async with ledger.write() as session:
        unused = select(SessionRow.id).where(
            col(SessionRow.id) == session_id, *_unused_sessions(since)
        )
        whole = (await session.execute(unused)).first() is not None
        numbers = select(func.min(MessageRow.number), func.max(MessageRow.number)).where(of_session)
        first, last = (await session.execute(numbers)).one()
        if first is None:
            if whole:
                await session.execute(delete(SessionRow).where(col(SessionRow.id) == session_id))
            return int(whole)
        up_to: int = last if whole else await _max_deletable(session, session_id, keep, since, last)
        up_to = min(up_to, first + BATCH_SIZE - 1)
        if up_to >= first:
            await session.execute(
                delete(MessageRow).where(of_session, col(MessageRow.number) <= up_to)
            )
        return max(up_to - int(first) + 1, 0)


async def _max_deletable(
    session: AsyncSession, session_id: str, keep: RetentionLimits, since: datetime, last: int
) -> int:
    """Return the number up to which messages may be deleted; a model is given the later ones."""
    old = select(func.max(MessageRow.number)).where(
        col(MessageRow.session_id) == session_id, col(MessageRow.at) < since
    )
    up_to: int = (await session.execute(old)).scalar_one() or 0
    if keep.runs is not None:
        up_to = max(up_to, last - 2 * keep.runs)
    return min(up_to, last - sessions.MAX_HISTORY_MESSAGES)


# --- jobs


async def prune_archived_jobs(ledger: Ledger, keep: RetentionLimits) -> list[str]:
    """Delete archived jobs that nothing refers to, with their revisions; return their names.

    At most one batch of them.
    """
    of_job = [col(each.job_id) == col(JobRow.id) for each in (RunRow, SessionRow, OutboxRow)]
    empty = (
        select(JobRow)
        .where(
            col(JobRow.archived_at) < keep.since(ledger.now()),
            col(JobRow.audited_until) >= col(JobRow.archived_at),
            col(JobRow.deployment_id).is_(None),
            *(~exists().where(each) for each in of_job),
        )
        .limit(BATCH_SIZE)
    )
    async with ledger.read() as session:
        if (await session.execute(empty)).first() is None:
            return []
    async with ledger.write() as session:
        archived_rows = (await session.execute(empty)).scalars().all()
        for row in archived_rows:
            await store.undo_add(session, row.id)
        return [row.name for row in archived_rows]


async def disabled_since(session: AsyncSession, before: datetime) -> Sequence[StoredJob]:
    """Return the live jobs that are disabled, and were neither switched nor edited since
    ``before``.
    """
    idle = (
        select(JobRow.id)
        .join(
            RevisionRow,
            (col(RevisionRow.job_id) == col(JobRow.id))
            & (col(RevisionRow.number) == col(JobRow.revision)),
        )
        .where(
            col(JobRow.archived_at).is_(None),
            col(RevisionRow.enabled).is_(False),
            col(RevisionRow.effective_from) < before,
        )
        .order_by(col(JobRow.name))
    )
    jobs = [await store.get(session, each) for each in (await session.execute(idle)).scalars()]
    return [each for each in jobs if each is not None]
