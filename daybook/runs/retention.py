"""Retention: deletion of old runs, sessions, outbox rows and archived jobs, by age and by count.

::

    a run              if it is older than the age limit, or beyond the newest N runs of its job;
                       all runs without a job count as the runs of one job
    a step             only its texts, if it began before the limit for texts and its run has ended;
                       the same applies to the text of a question to a person about a call or an
                       answer
    a session          messages beyond the age limit, or beyond 2 x N per session, unless they are
                       still sent to the model; the whole session, if it belonged to a single run
                       that was deleted, or if it was not used within the age limit, except the
                       session that all runs of a live job continue
    the outbox         finished rows, together with their run, or if they are older than the age
                       limit; never a job's last answer (`only_changed` compares the next one with
                       it), nor a row of a live run; a pending row is kept, and so is its run
    a disabled job     is archived if it was neither edited nor run within the limit for disabled
                       jobs, and if no other job names it
    an archived job    if it is older than the age limit, audited up to its removal, its deployment
                       is deleted, and no run, session or outbox row refers to it

Retention never deletes:

* live runs and unmirrored runs,
* due times after the watermark of their job (the audit would decide about them again),
* runs whose request id may be repeated,
* custom runs whose end in Prefect may be read again (without a row, such a run would start again),
* attempts of a day that budgets add up,
* runs that a live run retries or follows.

Each batch is a transaction of its own, so that no other writer waits long. After a crash, the next
call continues.

To add a rule for one of these tables, add a condition to its function: `_deletable` (runs),
`prune_outbox`, `_unused_sessions` and `_max_deletable` (sessions), or `prune_archived_jobs`. To add
a limit, add a setting (`daybook.settings`) and a field of `RetentionLimits`. To prune another
table, write a function that deletes one batch and returns the number of rows; call it in
`keeper.retention.prune`, which adds the number to `PruneReport`. `api.ledger` adds these reports up
in `PruneResult`, which `cli.ledger` prints and names in its help. A feature has a `retention` of
its own (`daybook.feature`); `operations.server` sets the retention of Prefect's own runs.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Select, delete, exists, func, or_, true, tuple_, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased
from sqlmodel import col, select

from daybook import settings
from daybook.delivery import outbox
from daybook.jobs import store
from daybook.jobs.store import StoredJob
from daybook.ledger import triggers
from daybook.ledger.engine import Ledger
from daybook.ledger.states import LIVE, TERMINAL, Delivery
from daybook.ledger.tables import (
    NEWEST_REVISION,
    ApprovalRow,
    AttemptRow,
    JobRow,
    MessageRow,
    OutboxRow,
    QueueRow,
    RevisionRow,
    RunRow,
    SessionRow,
    StepRow,
    SummaryRow,
)
from daybook.owners import namespace
from daybook.policies.compression import KEPT_MESSAGES
from daybook.runs import claim_requests, outcomes, prefect_ends

log = logging.getLogger(__name__)

BATCH_SIZE = 500
"""Maximum number of runs, messages, outbox rows or jobs that one transaction deletes.

The rows that belong to them, such as a run's attempts and steps, do not count.
"""
JOBS_PER_BATCH = 50
"""Maximum number of disabled jobs that one transaction archives."""
REQUEST_MIN_AGE = timedelta(days=7)
"""Minimum time for which retention keeps a requested or chained run.

As long as the ledger has the key of the run, a repeated request starts no second run.
"""
USAGE_MIN_AGE = timedelta(hours=26)
"""Minimum age of an attempt with usage, because the budgets of a day add up its attempts.

A day has at most 25 hours.
"""
PREFECT_RUN_MIN_AGE = timedelta(days=2)
"""Retention keeps a custom run until the ends in Prefect were read up to this long after its end.

Daybook may read the end of the run again, and a run that is mirrored late ends late in Prefect.
"""


@dataclass(frozen=True)
class RetentionLimits:
    """The limits: the ``age`` since the end of a run, and the number of ``runs`` kept for each job.

    ``disabled`` is the time after which retention archives a disabled job, and ``texts`` is the
    time after which it removes the texts of steps. None means no limit.
    """

    age: timedelta | None
    runs: int | None
    disabled: timedelta | None = None
    texts: timedelta | None = None

    @classmethod
    def of_settings(cls) -> RetentionLimits:
        """Return the limits of this home's settings."""
        loaded = settings.load()
        age, disabled, texts = (
            timedelta(days=days) if days else None
            for days in (loaded.keep_days, loaded.keep_disabled_days, loaded.keep_transcript_days)
        )
        return cls(age, loaded.keep_runs or None, disabled, texts)

    def since(self, now: datetime) -> datetime:
        """Return the time before which data is too old; without an age limit, the year 1."""
        return datetime.min.replace(tzinfo=now.tzinfo) if self.age is None else now - self.age


# --- runs


async def jobs_to_prune(ledger: Ledger, keep: RetentionLimits) -> list[str | None]:
    """Return the ids of jobs that may have runs to delete; None stands for runs without a job."""
    # Two queries, because the index of the ended runs finds the old ones, and because a count by
    # job reads a much smaller index if it needs no other column.
    old = select(RunRow.job_id).where(col(RunRow.finished_at) < keep.since(ledger.now())).distinct()
    by_job = select(RunRow.job_id).group_by(col(RunRow.job_id))
    async with ledger.read() as session:
        found = list((await session.execute(old)).scalars())
        if keep.runs is not None:
            many = by_job.having(func.count() > keep.runs)
            found += (await session.execute(many)).scalars()
        return list(dict.fromkeys(found))


async def prune_runs(ledger: Ledger, job_id: str | None, keep: RetentionLimits) -> tuple[int, int]:
    """Delete one batch of the job's runs, oldest first.

    Return how many runs and how many of their outbox rows were deleted.
    """
    deliveries = 0
    async with ledger.write() as session:
        conditions = await _deletable(session, job_id, keep, ledger.now())
        oldest = select(RunRow.id).where(*conditions).order_by(col(RunRow.due)).limit(BATCH_SIZE)
        run_ids = list((await session.execute(oldest)).scalars())
        if run_ids:
            delete_outbox = delete(OutboxRow).where(
                col(OutboxRow.run_id).in_(run_ids), ~_is_last_answer()
            )
            deleted = await session.execute(delete_outbox)
            deliveries = int(deleted.rowcount)  # type: ignore[attr-defined]
            for table in (ApprovalRow, AttemptRow, StepRow):
                await session.execute(delete(table).where(col(table.run_id).in_(run_ids)))
            await session.execute(delete(RunRow).where(col(RunRow.id).in_(run_ids)))
        return len(run_ids), deliveries


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
    follower = aliased(RunRow)  # its prompt may need the answer of the run that it follows
    has_live_follower = exists().where(
        col(follower.status).in_(LIVE),
        col(follower.trigger) == triggers.AFTER.name,
        col(follower.occurrence).endswith(col(RunRow.id)),
    )
    occurrence = col(RunRow.occurrence)
    is_requested = occurrence.startswith("request:") | occurrence.startswith(
        f"{triggers.AFTER.name}:"
    )
    is_recent_request = is_requested & (col(RunRow.queued_at) > now - REQUEST_MIN_AGE)
    # A direct call has no job, and Daybook never reads its end.
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
        last_due = func.coalesce(col(RunRow.due_to), col(RunRow.due))
        conditions.append(~claim_requests.HAS_DUE_KEY | (last_due <= row.audited_until))
    has_pending = exists().where(col(OutboxRow.run_id) == col(RunRow.id), outbox.PENDING)
    counts_for_budgets = exists().where(
        col(AttemptRow.run_id) == col(RunRow.id),
        col(AttemptRow.started_at) > now - USAGE_MIN_AGE,
        (col(AttemptRow.tokens) > 0) | (col(AttemptRow.usd) > 0) | (col(AttemptRow.unpriced) > 0),
    )
    return [
        of_job,
        or_(*past),
        *conditions,
        ~is_recent_request,
        ~may_be_read_again,
        ~has_live_retry,
        ~has_live_follower,
        ~has_pending,
        ~counts_for_budgets,
    ]


# --- texts of steps


async def remove_texts(ledger: Ledger, keep: RetentionLimits) -> int:
    """Remove the texts of one batch of steps or, if there are none left, of approval questions.

    Start with the oldest; return the number of steps or questions, 0 without a limit for texts. The
    texts of a run that has not ended stay, because a further attempt may continue from its steps.
    """
    if keep.texts is None:
        return 0
    before = ledger.now() - keep.texts
    began, has_text = col(StepRow.started_at), col(StepRow.input).is_not(None)
    old = select(StepRow.run_id, StepRow.number).where(began < before, has_text).order_by(began)
    count = await _remove_texts(
        ledger, StepRow, old, {"input": None, "output": None, "error": None}
    )
    if count:
        return count
    asked, was_asked = col(ApprovalRow.asked_at), col(ApprovalRow.input) != ""
    old = select(ApprovalRow.run_id, ApprovalRow.number).where(asked < before, was_asked)
    return await _remove_texts(ledger, ApprovalRow, old.order_by(asked), {"input": ""})


async def _remove_texts(
    ledger: Ledger,
    table: type[StepRow] | type[ApprovalRow],
    old: Select[tuple[str, int]],
    no_texts: dict[str, Any],
) -> int:
    ended = exists().where(col(RunRow.id) == col(table.run_id), col(RunRow.status).in_(TERMINAL))
    of_ended = old.where(ended).limit(BATCH_SIZE)
    async with ledger.read() as session:
        if (await session.execute(of_ended.limit(1))).first() is None:
            return 0
    async with ledger.write() as session:
        key = tuple_(col(table.run_id), col(table.number))
        removal = update(table).where(key.in_(of_ended)).values(no_texts)
        removed = await session.execute(removal.execution_options(synchronize_session=False))
        return int(removed.rowcount)  # type: ignore[attr-defined]


# --- the outbox


async def prune_outbox(ledger: Ledger, keep: RetentionLimits) -> int:
    """Delete one batch of finished outbox rows, oldest first; return how many were deleted.

    `prune_runs` deletes the outbox rows of a run together with the run; this function deletes rows
    older than the age limit, with or without a run. It also deletes old records of failed
    destinations without pending messages.
    """
    since = keep.since(ledger.now())
    # A tool counts the messages of its run, and finds the one of a call that it repeats.
    of_live_run = exists().where(
        col(RunRow.id) == col(OutboxRow.run_id), col(RunRow.status).in_(LIVE)
    )
    old = (
        select(OutboxRow.id)
        .where(
            col(OutboxRow.created_at) < since,
            col(OutboxRow.finished_at) < since,
            ~outbox.PENDING,
            ~_is_last_answer(),
            ~of_live_run,
        )
        .order_by(col(OutboxRow.created_at))
        .limit(BATCH_SIZE)
    )
    has_pending = exists().where(col(OutboxRow.queue) == col(QueueRow.queue), outbox.PENDING)
    old_failures = (col(QueueRow.since) < since) & ~has_pending
    failed_queues = select(QueueRow.queue).where(old_failures)
    async with ledger.read() as session:
        no_rows = (await session.execute(old.limit(1))).first() is None
        if no_rows and (await session.execute(failed_queues.limit(1))).first() is None:
            return 0
    async with ledger.write() as session:
        outbox_ids = list((await session.execute(old)).scalars())
        await session.execute(delete(OutboxRow).where(col(OutboxRow.id).in_(outbox_ids)))
        await session.execute(delete(QueueRow).where(old_failures))
        return len(outbox_ids)


def _is_last_answer() -> ColumnElement[bool]:
    """Return the condition for a live job's last answer to a channel.

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


# --- sessions


def _unused_sessions(since: datetime) -> list[ColumnElement[bool]]:
    """Return the conditions for sessions to delete as a whole.

    No live run uses such a session, and one of these conditions is true:

    * it was not used since ``since``, and it belongs to one run or to a removed job, or is shared,
    * it belongs to one run of a job, and that run was deleted.
    """
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
            long = grouped.having(span >= max(2 * keep.runs, KEPT_MESSAGES))
            session_ids += (await session.execute(long)).scalars()
    return list(dict.fromkeys(session_ids))


async def prune_messages(ledger: Ledger, session_id: str, keep: RetentionLimits) -> int:
    """Delete one batch of a session's messages, oldest first; return how many were deleted.

    If an unused session has no messages, delete the session itself; it counts as one message.
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
                of_summaries = col(SummaryRow.session_id) == session_id
                await session.execute(delete(SummaryRow).where(of_summaries))
                await session.execute(delete(SessionRow).where(col(SessionRow.id) == session_id))
            return int(whole)
        up_to: int = last if whole else await _max_deletable(session, session_id, keep, since, last)
        up_to = min(up_to, first + BATCH_SIZE - 1)
        if up_to >= first:
            await session.execute(
                delete(MessageRow).where(of_session, col(MessageRow.number) <= up_to)
            )
            await _delete_replaced_summaries(session, session_id, up_to)
        return max(up_to - int(first) + 1, 0)


async def _delete_replaced_summaries(session: AsyncSession, session_id: str, up_to: int) -> None:
    """Delete the summaries of messages up to the number ``up_to``, except the newest summary."""
    of_session = col(SummaryRow.session_id) == session_id
    newest = select(func.max(SummaryRow.through)).where(of_session).scalar_subquery()
    replaced = (col(SummaryRow.through) <= up_to) & (col(SummaryRow.through) < newest)
    await session.execute(delete(SummaryRow).where(of_session, replaced))


async def _max_deletable(
    session: AsyncSession, session_id: str, keep: RetentionLimits, since: datetime, last: int
) -> int:
    """Return the highest `number` of the messages that may be deleted.

    Keep the last `KEPT_MESSAGES` messages, because a model reads them.
    """
    old = select(func.max(MessageRow.number)).where(
        col(MessageRow.session_id) == session_id, col(MessageRow.at) < since
    )
    up_to: int = (await session.execute(old)).scalar_one() or 0
    if keep.runs is not None:
        up_to = max(up_to, last - 2 * keep.runs)
    return min(up_to, last - KEPT_MESSAGES)


# --- jobs


async def prune_archived_jobs(ledger: Ledger, keep: RetentionLimits) -> list[str]:
    """Delete archived jobs that no other row refers to, with their revisions; return their names.

    Other rows are runs, sessions and rows of the outbox. Delete at most one batch of jobs that were
    archived before the age limit, were audited up to their removal, and have no deployment.
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
            await store.delete_job(session, row.id)
        return [row.name for row in archived_rows]


async def remove_disabled_jobs(ledger: Ledger, keep: RetentionLimits) -> list[str]:
    """Archive one batch of the jobs that `disabled_since` finds; return their names.

    Without a limit for disabled jobs, archive none. The keeper's observer deletes the deployments.
    """
    if keep.disabled is None:
        return []
    before = ledger.now() - keep.disabled
    async with ledger.read() as session:
        if not await disabled_since(session, before):
            return []
    async with ledger.write() as session:
        stored = (await disabled_since(session, before))[:JOBS_PER_BATCH]
        for each in stored:
            await outcomes.archive_job(session, each, ledger.now())
    for each in stored:
        extra = {"action": "disabled_job_removed", "job": each.row.name}
        log.info('removed the job "%s", disabled and unused for long', each.row.name, extra=extra)
    return [each.row.name for each in stored]


async def disabled_since(session: AsyncSession, before: datetime) -> list[StoredJob]:
    """Return the live jobs, sorted by name, that were disabled and unused since ``before``.

    A job is in use if it was edited or run, has a live run, or if another job runs after it or uses
    its answer.
    """
    live = exists().where(col(RunRow.job_id) == col(JobRow.id), col(RunRow.status).in_(LIVE))
    unused = (
        select(JobRow.id)
        .join(RevisionRow, NEWEST_REVISION)
        .where(
            col(JobRow.archived_at).is_(None),
            col(RevisionRow.enabled).is_(False),
            col(RevisionRow.effective_from) < before,
            col(JobRow.updated_at) < before,  # an edit of the name or tags makes no revision
            or_(col(JobRow.last_run_at).is_(None), col(JobRow.last_run_at) < before),
            ~live,
        )
    )
    ids = set((await session.execute(unused)).scalars())
    if not ids:
        return []
    jobs = await store.read_all(session)
    outputs = await store.used_outputs(session)
    named = {
        (namespace(each.row.owner), name)
        for each in jobs
        for name in (each.row.runs_after, *outputs.get(each.id, ()))
        if name != each.row.name
    }
    return [
        each
        for each in jobs
        if each.id in ids
        and each.problem is None
        and (namespace(each.row.owner), each.row.name) not in named
    ]
