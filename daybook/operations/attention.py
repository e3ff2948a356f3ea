"""Problems that need a person: failures, missed due times, undelivered messages and others.

Each `Need` has its cause, and the command or the page that helps. All facts come from the ledger
and the settings, with a number of queries that does not depend on the number of jobs. The problems
of the scheduler itself are in the health report (`operations.health`), which the caller adds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import sqlalchemy
from pydantic import BaseModel
from sqlalchemy import func
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from daybook.api import authorization, spending, task_scheduler
from daybook.errors import one_line
from daybook.jobs import store, summaries
from daybook.jobs.summaries import JobSummary
from daybook.ledger import arguments
from daybook.ledger.engine import Ledger, open_ledger
from daybook.ledger.references import command_word
from daybook.ledger.states import Status
from daybook.ledger.tables import ApprovalRow, JobRow, RunRow
from daybook.operations import findings, outbox_status
from daybook.owners import namespace
from daybook.policies.policy import ANSWER
from daybook.runs import approvals, budget, history
from daybook.schedules.descriptions import duration_in_words
from daybook.schedules.zones import midnight, wall_time
from daybook.tasks import counts as task_counts

PERIOD = timedelta(hours=24)
MAX_OF_A_KIND = 12
"""Maximum number of needs of one kind, except of the outbox and of tasks.

If there are more, the last one counts the others.
"""
MAX_WHY = 240
"""Maximum number of characters of an error."""
_CANNOT_RUN = (Status.MISSED, Status.UNKNOWN)


class Need(BaseModel, frozen=True):
    """Something that a person has to decide or fix.

    ``severity`` is a status; pages show the need with the colour and shape of that status.
    ``job_id`` and ``run_id`` are those of the job and the run with the problem, or None. ``fix`` is
    a command, or empty.
    """

    kind: str
    severity: str
    title: str
    why: str = ""
    fix: str = ""
    job_id: str | None = None
    run_id: str | None = None


async def read(tz: ZoneInfo) -> list[Need]:
    """Return all needs, the most urgent first. The day of a budget is a day in the zone ``tz``."""
    async with open_ledger() as ledger:
        async with ledger.read() as session:
            now = ledger.now()
            jobs = await summaries.read(session, authorization.visible_owner())
            asked = await approvals.waiting(session, now, authorization.visible_owner())
            lost = await _lost(session, now, jobs)
            last_failures = await history.last_failures(
                session, [each.id for each in jobs if each.consecutive_failures]
            )
            silent = await history.without_answers(session, authorization.visible_owner())
            budgets = await _budgets(session, jobs, now, tz)
            tasks = task_scheduler.problems(await task_counts.read_counts(session, now), now)
        outbox = await _outbox(ledger, jobs)
    found = [
        _few(_approvals(asked), "approval"),
        _few(_failing(jobs, now, last_failures), "failing"),
        _few(_silent(silent), "empty answers"),
        _few(lost, "missed"),
        outbox,
    ]
    found += [_few(_conflicts(jobs), "conflict"), _few(budgets, "budget")]
    found.append(
        [
            Need(kind="task", severity="missed", title=_sentence(each.what), fix=each.command)
            for each in tasks
        ]
    )
    found += [_few(_chains(jobs), "chain"), _few(_pending(jobs), "pending")]
    found.append(_few(_paused(jobs), "paused"))
    return [need for needs in found for need in needs]


def _few(found: Iterator[Need] | Sequence[Need], state: str) -> list[Need]:
    """Return the first needs, and one more need that counts the others.

    ``state`` is the state of the other needs; the additional need names it.
    """
    listed = list(found)
    more = len(listed) - MAX_OF_A_KIND
    if more <= 0:
        return listed
    first = listed[0]
    title = f"{more + 1:,} more like this"
    rest = Need(kind=first.kind, severity=first.severity, title=title, why=f"State: {state}")
    return [*listed[: MAX_OF_A_KIND - 1], rest]


def _approvals(
    asked: Sequence[tuple[ApprovalRow, RunRow, JobRow | None]],
) -> Iterator[Need]:
    for row, run, job in asked:
        yield Need(
            kind="approval",
            severity="waiting",
            title=f"{job.name if job else 'A direct call'} "
            + ("has an answer" if row.position == ANSWER else f"wants to call {row.tool}"),
            why=one_line(_asked_for(row), MAX_WHY),
            fix=f"daybook approve {run.id[:12]}.{row.number}",
            job_id=run.job_id,
            run_id=run.id,
        )


def _asked_for(row: ApprovalRow) -> str:
    """Return the names of the call's arguments, or the beginning of the answer."""
    given = None if row.position == ANSWER else arguments.read(row.input)
    if given is None:
        return row.input
    return f"with {arguments.names(given)}" if given else "without arguments"


def _failing(
    jobs: Sequence[JobSummary],
    now: datetime,
    last_failures: Mapping[str | None, tuple[str, str]],
) -> Iterator[Need]:
    for job in sorted(jobs, key=lambda each: -each.consecutive_failures):
        count = job.consecutive_failures
        if count and not budget.is_of_ended_day(job.last_error, now):
            run_id, status = last_failures.get(job.id, (None, Status.FAILED))
            times = "failed" if count == 1 else f"failed {count} times in a row"
            yield Need(
                kind="failing",
                severity=status,
                title=f"{job.name} {times}",
                why=one_line(job.last_error or "", MAX_WHY),
                fix=f"daybook run {command_word(job)} --wait",
                job_id=job.id,
                run_id=run_id,
            )


def _silent(jobs: Sequence[tuple[str, str, str]]) -> Iterator[Need]:
    for job_id, name, run_id in jobs:
        yield Need(
            kind="failing",
            severity="missed",
            title=_sentence(findings.empty_answers(name)),
            fix=f"daybook show {run_id[:12]}",
            job_id=job_id,
            run_id=run_id,
        )


async def _lost(session: AsyncSession, now: datetime, jobs: Sequence[JobSummary]) -> list[Need]:
    """Return needs for the missed and the unknown runs in `PERIOD`, at most two for each job."""
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
    found = list[Need]()
    for job_id, status, count, run_id, reason in (await session.execute(query)).all():
        job = by_id.get(job_id)
        if job is None:
            continue  # the job was removed, or the run had none
        times = "a due time" if count == 1 else f"{count:,} due times"
        title = f"{job.name} missed {times}"
        if status == Status.UNKNOWN:
            runs = "A run" if count == 1 else f"{count:,} runs"
            title = f"{runs} of {job.name} may have had an effect: the outcome is unknown"
        found.append(
            Need(
                kind="missed",
                severity=status,
                title=title,
                why=one_line(reason, MAX_WHY),
                fix=f"daybook run {command_word(job)}",
                job_id=job_id,
                run_id=run_id,
            )
        )
    return sorted(found, key=lambda each: (each.severity != Status.UNKNOWN, each.title.casefold()))


async def _outbox(ledger: Ledger, jobs: Sequence[JobSummary]) -> list[Need]:
    """Return the outbox findings of `daybook status` as needs.

    Do not repeat errors of failing jobs.
    """
    status = await outbox_status.read_status(ledger)
    failing = {each.name for each in jobs if each.consecutive_failures}
    return [
        Need(
            kind="inbox" if each.fix.startswith("daybook inbox") else "outbox",
            severity="failed" if each.severity == "problem" else "missed",
            title=_sentence(each.message),
            fix=each.fix,
        )
        for each in status.findings(failing)
    ]


def _conflicts(jobs: Sequence[JobSummary]) -> Iterator[Need]:
    for job in jobs:
        if job.conflict is not None:
            cause, fields = findings.describe_conflict(job.conflict)
            is_changed = cause == findings.CHANGED_ON_BOTH_SIDES
            yield Need(
                kind="conflict",
                severity="missed",
                title=f"{job.name} {'was ' if is_changed else ''}{cause}",
                why=fields,
                fix=f"daybook sync {command_word(job)} --prefer ledger (or prefect)",
                job_id=job.id,
            )


def _chains(jobs: Sequence[JobSummary]) -> Iterator[Need]:
    names = {(namespace(each.owner), each.name) for each in jobs}
    for job in jobs:
        after = job.runs_after
        if job.enabled and after and (namespace(job.owner), after) not in names:
            yield Need(
                kind="chain",
                severity="missed",
                title=f"{job.name} runs after {after}, which does not exist",
                fix=f"daybook edit {command_word(job)} --after JOB",
                job_id=job.id,
            )


def _pending(jobs: Sequence[JobSummary]) -> Iterator[Need]:
    if waiting := [each.name for each in jobs if each.sync_pending]:
        names = ", ".join(waiting[:5]) + (f" and {len(waiting) - 5} more" * (len(waiting) > 5))
        count = "A job has a change" if len(waiting) == 1 else f"{len(waiting):,} jobs have changes"
        yield Need(
            kind="pending",
            severity="waiting",
            title=f"{count} that Prefect does not have yet",
            why=names,
            fix="daybook sync",
        )


def _paused(jobs: Sequence[JobSummary]) -> Iterator[Need]:
    for job in jobs:
        if not job.enabled and not job.disabled_reason.startswith(_FINISHED):
            yield Need(
                kind="paused",
                severity="skipped",
                title=f"{job.name} is paused",
                why=one_line(job.disabled_reason, MAX_WHY),
                fix=f"daybook resume {command_word(job)}",
                job_id=job.id,
            )


_FINISHED = (store.FIRED_REASON, store.PASSED_REASON, store.MAX_RUNS_REASON)
"""First words of the reasons for disabling a job that has no run left."""


async def _budgets(
    session: AsyncSession, jobs: Sequence[JobSummary], now: datetime, tz: ZoneInfo
) -> list[Need]:
    """Return a need for each of today's budgets that is nearly spent (`budget.NEARLY_SPENT`)."""
    today = wall_time(now, tz).date()
    found = await spending.budgets_of(session, jobs, today, tz)
    by_id = {each.id: each for each in jobs}
    left = midnight(today + timedelta(days=1), tz) - now
    words = duration_in_words(timedelta(minutes=left // timedelta(minutes=1)))
    return [
        Need(
            kind="budget",
            severity="missed",
            title=f"{each.name or 'Daybook'} has used {each.share:.0%} of its "
            + ("tokens" if each.unit == "tokens" else "US dollars"),
            why=f"{each.words()}; the day ends in {words}",
            fix=f"daybook edit {command_word(by_id[each.job_id])} --{each.unit}-per-day N"
            if each.job_id
            else "daybook spend --since today",
            job_id=each.job_id,
        )
        for each in found
        if each.share >= budget.NEARLY_SPENT
    ]


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
