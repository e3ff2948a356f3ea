"""What needs a person: failures, missed due times, undelivered messages and others.

Each finding has its cause, and the command or the action that helps. The findings about one trouble
of a job are one entry (`incidents`). All facts come from the ledger
and the settings, with a number of queries that does not depend on the number of jobs. The problems
of the scheduler itself are in the health report (`diagnosis.health`), which the caller adds.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import sqlalchemy
from sqlalchemy import func
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from daybook import feature
from daybook.api import authorization
from daybook.delivery import outbox as outbox_rows
from daybook.delivery.alerts import ALERT_EVENTS
from daybook.diagnosis import findings, incidents, outbox_status
from daybook.diagnosis.incidents import Incident
from daybook.errors import Unreachable
from daybook.feature import Feature
from daybook.finding import Finding, FindingAction, Severity, problem
from daybook.jobs import store, stored_columns, summaries
from daybook.jobs.summaries import JobSummary
from daybook.ledger.engine import open_ledger
from daybook.ledger.references import command_word
from daybook.ledger.states import Delivery, Status
from daybook.ledger.tables import JobRow, OutboxRow, RunRow
from daybook.runs import approvals, history
from daybook.short_text import one_line

log = logging.getLogger(__name__)

PERIOD = timedelta(hours=24)
_CANNOT_RUN = (Status.MISSED, Status.UNKNOWN)
_ENDS_WITH_SUCCESS = ("failed", "paused", "missed", "overdue")
"""Events of alerts that need no person after the job has succeeded again."""


@dataclass(frozen=True)
class AttentionFacts:
    """The facts for the ``needs`` of features. A day is a day in the zone ``tz``."""

    session: AsyncSession
    jobs: Sequence[JobSummary]
    now: datetime
    tz: ZoneInfo


async def read(tz: ZoneInfo) -> list[Incident]:
    """Return what needs a person, the most urgent first.

    The day of a budget is a day in the zone ``tz``.
    """
    owner = authorization.visible_owner()
    async with open_ledger() as ledger:
        async with ledger.read() as session:
            now = ledger.now()
            jobs = await summaries.read(session, owner)
            failing = [each.id for each in jobs if each.consecutive_failures]
            last_failures = await history.last_failures(session, failing)
            asked = await approvals.waiting(session, now, owner)
            silent = await history.without_answers(session, owner)
            outputs = await store.used_outputs(session)
            lost = await _lost(session, now, jobs)
            unread = await _unread_alerts(session)
            unreadable = await stored_columns.unreadable(session) if owner is None else []
            facts = AttentionFacts(session, jobs, now, tz)
            of_features = [await _ask(each, facts) for each in feature.features() if each.needs]
        outbox = await outbox_status.read_status(ledger)
    troubles = [
        *findings.failing_jobs(jobs, now, last_failures),
        *findings.without_answers(silent),
        *lost,
    ]
    paused = _paused(jobs)
    groups = (
        findings.approvals(asked, quotes=True),
        findings.unreadable_jobs(unreadable),
        troubles,
        _alerts(unread, jobs, {each.job_id for each in (*troubles, *paused)}),
        [each for each in outbox.findings() if each.kind != "inbox"],
        findings.sync(jobs),
        *of_features,
        findings.broken_chains(jobs, outputs),
        paused,
    )
    return incidents.merge(each for group in groups for each in group)


@dataclass(frozen=True)
class _UnreadAlerts:
    """The unread alerts about one job (None: about no job) with one event."""

    job_id: str | None
    event: str
    count: int
    subject: str
    is_open: bool


async def _unread_alerts(session: AsyncSession) -> list[_UnreadAlerts]:
    """Return the unread alerts by job and event, those with the newest alert first."""
    row = OutboxRow
    group = (col(row.job_id), col(row.event))
    ranked = (
        sqlalchemy.select(
            *group,
            func.count().over(partition_by=group).label("total"),
            col(row.subject),
            col(row.created_at),
            func.row_number()
            .over(partition_by=group, order_by=(col(row.created_at).desc(), col(row.id)))
            .label("rank"),
        )
        .where(
            outbox_rows.UNREAD,
            col(row.status) == Delivery.DELIVERED,
            col(row.event).in_(ALERT_EVENTS),
        )
        .subquery()
    )
    query = (
        sqlalchemy.select(*list(ranked.c)[:4], func.coalesce(JobRow.alert_open, sqlalchemy.true()))
        .outerjoin(JobRow, col(JobRow.id) == ranked.c.job_id)
        .where(ranked.c.rank == 1)
        .order_by(ranked.c.created_at.desc())
    )
    return [_UnreadAlerts(*each) for each in (await session.execute(query)).tuples()]


def _alerts(
    unread: Sequence[_UnreadAlerts], jobs: Sequence[JobSummary], troubled: Collection[str | None]
) -> list[Finding]:
    """Return the findings about unread alerts.

    The alerts about a job of ``troubled`` are a finding of this job, those of jobs that have
    recovered since are one finding, and so are the others.
    """
    fine = {
        each.id
        for each in jobs
        if not each.consecutive_failures and each.last_status == Status.SUCCEEDED
    }
    of_jobs, recovered, others = Counter[str](), 0, list[_UnreadAlerts]()
    for each in unread:
        if each.job_id is not None and each.job_id in troubled:
            of_jobs[each.job_id] += each.count
        elif each.event in _ENDS_WITH_SUCCESS and each.job_id in fine and not each.is_open:
            recovered += each.count
        else:
            others.append(each)
    found = [_alert(_count_of_alerts(count), job_id=job_id) for job_id, count in of_jobs.items()]
    if others:
        count = sum(each.count for each in others)
        last = f", the last: {others[0].subject}" if count > 1 else f": {others[0].subject}"
        found.append(_alert(f"{_count_of_alerts(count)}{last}"))
    if recovered:
        title = "An alert of a job that has recovered"
        if recovered > 1:
            title = f"{recovered:,} alerts of jobs that have recovered"
        found.append(_alert(title, kind=incidents.RECOVERED))
    return found


def _count_of_alerts(count: int) -> str:
    return f"{count:,} unread alert" + "s" * (count > 1)


def _alert(title: str, *, kind: str = "inbox", job_id: str | None = None) -> Finding:
    return Finding(
        check="outbox",
        severity=Severity.WARNING,
        title=title,
        fix=outbox_status.READ_ALERTS,
        kind=kind,
        job_id=job_id,
        action=FindingAction.READ,
    )


async def _ask(of_feature: Feature, facts: AttentionFacts) -> list[Finding]:
    """Return the findings of a feature. Its failure is a finding, because the others are useful."""
    try:
        async with facts.session.begin_nested():  # a failed query would end the transaction
            found: list[Finding] = await of_feature.load(of_feature.needs)(facts)
    except Exception as error:
        # A foreign mistake in SQL looks like an unreachable ledger.
        if of_feature.is_own and isinstance(error, Unreachable):
            raise
        log.exception("the feature %s failed", of_feature.name)
        title = f"The feature {of_feature.name} cannot say what needs you"
        why = type(error).__name__  # a text from outside may contain a secret
        return [problem("features", title, "read the log", why=why, kind="feature")]
    return found


async def _lost(session: AsyncSession, now: datetime, jobs: Sequence[JobSummary]) -> list[Finding]:
    """Return findings about missed and unknown runs in `PERIOD`, at most two for each job.

    Missed due times of a job whose last outcome is a success need no person any more.
    """
    run = RunRow
    group = (col(run.job_id), col(run.status))
    newest_first = (col(run.finished_at).desc(), col(run.id))
    ranked = (
        sqlalchemy.select(
            *group,
            func.sum(col(run.count)).over(partition_by=group).label("total"),
            col(run.id),
            col(run.reason),
            func.row_number().over(partition_by=group, order_by=newest_first).label("rank"),
        )
        .where(col(run.finished_at) >= now - PERIOD, col(run.status).in_(_CANNOT_RUN))
        .subquery()
    )
    by_id = {each.id: each for each in jobs}
    query = sqlalchemy.select(*list(ranked.c)[:5]).where(ranked.c.rank == 1)
    found = list[Finding]()
    for job_id, status, count, run_id, reason in (await session.execute(query)).all():
        job = by_id.get(job_id)
        if job is None:
            continue  # the job was removed, or the run had none
        if status == Status.MISSED and job.last_status == Status.SUCCEEDED:
            continue
        times = "a due time" if count == 1 else f"{count:,} due times"
        title = f"{job.name} missed {times}"
        if status == Status.UNKNOWN:
            runs = "A run" if count == 1 else f"{count:,} runs"
            title = f"{runs} of {job.name} may have had an effect: the outcome is unknown"
        found.append(
            Finding(
                check="jobs",
                severity=Severity.WARNING,
                title=title,
                why=one_line(reason, findings.MAX_WHY),
                fix=f"daybook run {command_word(job)}",
                kind=status,
                job_id=job_id,
                run_id=run_id,
                action=FindingAction.RUN,
            )
        )
    return sorted(found, key=lambda each: (each.kind != Status.UNKNOWN, each.title.casefold()))


def _paused(jobs: Sequence[JobSummary]) -> list[Finding]:
    return [
        Finding(
            check="jobs",
            severity=Severity.WARNING,
            title=f"{job.name} is paused",
            why=one_line(job.disabled_reason, findings.MAX_WHY),
            fix=f"daybook resume {command_word(job)}",
            kind="paused",
            job_id=job.id,
            action=FindingAction.RESUME,
        )
        for job in jobs
        if not job.enabled and not job.disabled_reason.startswith(_FINISHED)
    ]


_FINISHED = (store.FIRED_REASON, store.PASSED_REASON, store.MAX_RUNS_REASON)
"""First words of the reasons for disabling a job that has no run left."""
