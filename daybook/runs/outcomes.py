"""Recording of outcomes.

One transaction writes the run's row, its open attempt, the job's fields and the outbox rows
(`docs/promise.md` 6).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any

from sqlalchemy import func
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook import owners
from daybook.delivery import listeners, outbox
from daybook.errors import IllegalTransition
from daybook.jobs import store
from daybook.jobs.store import StoredJob
from daybook.ledger import states, waits
from daybook.ledger.states import FAILURES, HELD, TERMINAL, Outcome, Status, Usage
from daybook.ledger.tables import AttemptRow, JobRow, RevisionRow, RunRow
from daybook.runs import approvals, chains, claim_requests, rows, slots, steps, usage, watched
from daybook.runs.usage import Amount
from daybook.short_text import shorten

MAX_OUTPUT_CHARACTERS = 8_000
"""Maximum length of an answer in the ledger, in characters; Prefect's artifact has the full text.
"""

REMOVED_REASON = "the job was removed"
"""The reason of a run that is skipped or cancelled because its job was removed."""

_OPEN = (Status.RUNNING, Status.UNKNOWN)
"""The states of an attempt whose end is not known."""

_CUT_SHORT = (Status.TIMED_OUT, Status.CANCELLED, Status.UNKNOWN)
"""Outcomes of an attempt whose process did not end by itself."""


def stored_output(output: str | None) -> str | None:
    """Return an answer as the ledger stores it: at most `MAX_OUTPUT_CHARACTERS`, and a note."""
    if output is None:
        return None
    return shorten(output, MAX_OUTPUT_CHARACTERS, where=", in the run's artifact")


async def record(session: AsyncSession, row: RunRow, outcome: Outcome, now: datetime) -> None:
    """Put ``row`` into a terminal state, and write everything that belongs to the outcome.

    All code records outcomes with this function, even for a new row, which has no status and is not
    stored yet. There are two exceptions: `extend_range` adds due times to a recorded outcome, and
    `imports.writer` stores the past runs of another system. Raise `IllegalTransition` if the status
    of ``outcome`` is not terminal, or if the row cannot change to it.
    """
    old, waited_for = row.state if row.status else None, row.wait_reason
    if outcome.status not in TERMINAL:
        raise IllegalTransition(row.id, old or "none", outcome.status)
    states.check_transition(row.id, old, outcome.status)
    late = old is Status.UNKNOWN
    outcome = _with_remark(row, outcome)
    row.status = outcome.status
    row.reason = outcome.reason
    row.finished_at = now
    row.until, row.waits_for = None, waits.UNTIL.name
    row.lease_until, row.suspected_at = None, None
    row.output = stored_output(outcome.output)
    row.result, row.error = outcome.result, outcome.error
    row.warnings = list(outcome.warnings)
    row.agent = outcome.agent or row.agent
    row.model = outcome.model
    # Once the flow run has been started again, Prefect's state belongs to the later row.
    started_again = late and await _started_again(session, row)
    row.unmirrored = row.flow_run_id is not None and not started_again
    session.add(row)
    await session.flush()
    is_suspended = old not in _OPEN and await open_attempt(session, row) is not None
    if is_suspended or waited_for.for_person:
        await approvals.withdraw(session, row.id, now)
    if old in _OPEN or is_suspended:  # else the last attempt has ended, even if its end is unknown
        outcome = await _with_usage_of_answer(session, row, outcome, late=late)
        await close_attempt(session, row, outcome, now)
    elif outcome.usage:  # usage of a check that skipped the run or failed
        row.usage = usage.total((row.usage, outcome.usage))
        if not row.attempts:
            check = new_attempt(row, 0, now, outcome.usage)
            check.status, check.finished_at = outcome.status, now
            session.add(check)
    await steps.forget(session, row)
    await approvals.forget(session, row)
    stored = await store.get_readable(session, row.job_id)
    if stored is not None and (outcome.status is Status.SUCCEEDED or not row.attempts):
        # A run without an attempt has found something only if its watch saw the source for the
        # first time.
        await watched.record(session, row, stored.job.policy.check)
    if outcome.status is not Status.UNKNOWN:  # an `unknown` may be corrected later
        row.found = rows.payload_of(row)  # a retry needs the payload
    paused = await update_job(session, row, stored, now, late=late)
    await outbox.enqueue(session, row, outcome, stored, now, late=late, paused=paused)
    await listeners.enqueue(session, row, stored, now, late=late)
    for missed, why in await chains.start(session, row, now, late=late):
        await record(session, missed, Outcome(Status.MISSED, reason=why), now)
    if old in HELD or (old is Status.WAITING and waited_for.for_slot):  # else it had no place
        await slots.release_label(session, row, now)
    await slots.release_session(session, row, now)
    await slots.release_slot(session, row, now)


def _with_remark(row: RunRow, outcome: Outcome) -> Outcome:
    """Return the outcome of a run whose program was ended, with a remark about its folder.

    The remark is in the error, or in the reason if there is no error.
    """
    if not row.work_dir or row.status not in _OPEN or outcome.status not in _CUT_SHORT:
        return outcome
    remark = f"its folder {row.work_dir} may be half changed"
    if outcome.error:
        return replace(outcome, error=f"{outcome.error}; {remark}")
    return replace(outcome, reason="; ".join(filter(None, (outcome.reason, remark))))


async def extend_range(
    session: AsyncSession, row: RunRow, due_to: datetime, now: datetime, *, count: int, reason: str
) -> None:
    """Add ``count`` due times, the last at ``due_to``, to ``row``, which had no attempt.

    The new due times are adjacent to the row's due times and had the same outcome; ``reason``
    becomes the reason of the whole range. Mark the row `unmirrored`, so that its Prefect run shows
    the new end of the range, unless the job was removed or that Prefect run has been started again.
    """
    row.due_to, row.count, row.finished_at = due_to, row.count + count, now
    row.reason = reason
    stored = await store.get_readable(session, row.job_id)
    is_live = stored is not None and stored.row.archived_at is None
    row.unmirrored = is_live and not await _started_again(session, row)
    session.add(row)
    if stored is not None and stored.row.last_run_id == row.id:
        stored.row.last_run_at = due_to
        session.add(stored.row)
    await outbox.update_range(session, row, stored)
    await listeners.update_range(session, row, stored, now)


async def _started_again(session: AsyncSession, row: RunRow) -> bool:
    if row.flow_run_id is None:
        return False
    later = select(RunRow.id).where(
        col(RunRow.flow_run_id) == row.flow_run_id, col(RunRow.flow_starts) > row.flow_starts
    )
    return (await session.execute(later.limit(1))).first() is not None


def new_attempt(row: RunRow, number: int, now: datetime, used: Usage | None) -> AttemptRow:
    """Return the row of an attempt that begins now; ``used`` is the usage of its run's check."""
    spent = Amount.of(used)
    return AttemptRow(
        run_id=row.id,
        number=number,
        fence=row.fence,
        started_at=now,
        usage=used,
        job_id=row.job_id,
        agent=claim_requests.agent_name(row.parameters),
        **asdict(spent),
    )


async def open_attempt(session: AsyncSession, row: RunRow) -> AttemptRow | None:
    """Return the run's last attempt if it has not ended, else None.

    Without a process, the run waits for an approval, or has waited for one and is due again.
    """
    attempt = await session.get(AttemptRow, (row.id, row.attempts)) if row.attempts else None
    return attempt if attempt is not None and attempt.finished_at is None else None


async def _with_usage_of_answer(
    session: AsyncSession, row: RunRow, outcome: Outcome, *, late: bool
) -> Outcome:
    """Return ``outcome`` with the usage of the answer about which the run has asked a person.

    A program has no steps, so without the usage in the approval, the cost of its answer would
    vanish if the run were cancelled. A ``late`` outcome has no usage: the first end counted it.
    """
    asked = None if outcome.usage and not late else await approvals.of_answer(session, row)
    if asked is None:
        return outcome
    return replace(outcome, usage=None if late else (asked.outcome or {}).get("usage"))


async def close_attempt(
    session: AsyncSession, row: RunRow, outcome: Outcome, now: datetime
) -> None:
    """Record how the run's last attempt ended, and the run's total usage.

    If the process was killed, the steps of the attempt may have used more than the outcome reports;
    then their usage counts. Do nothing for a run without an attempt, or if the attempt's end is
    already known.
    """
    attempt = await session.get(AttemptRow, (row.id, row.attempts))
    if attempt is None or attempt.status not in _OPEN:
        return
    is_first_end = attempt.status == Status.RUNNING
    attempt.status, attempt.error, attempt.finished_at = outcome.status, outcome.error, now
    session.add(attempt)
    await session.flush()
    await steps.close(session, row, now)
    requests = await steps.requests_of(session, row)
    of_steps = usage.total(each.usage for each in requests)
    if is_first_end or not requests:
        used = _larger(outcome.usage, of_steps)
        # Added to the usage of the check that preceded the attempt (`claims.begin`).
        attempt.usage = usage.total((attempt.usage, used))
        _add(attempt, _spent(requests, Amount.of(used)))
        # The answer of a program is a request without tokens until the program reports them.
        is_silent = all(each.amount.unpriced and not each.amount.tokens for each in requests)
        if outcome.status is Status.CANCELLED and is_silent and not used:
            await _count_grant(session, row, attempt)
    else:  # a late outcome: the first end has counted the steps
        _correct(attempt, requests, of_steps, outcome.usage)
    await session.flush()
    of_run = select(AttemptRow.usage).where(col(AttemptRow.run_id) == row.id)
    usages = (await session.execute(of_run.order_by(col(AttemptRow.number)))).scalars()
    row.usage = usage.total(usages)
    session.add(row)


def _spent(requests: Sequence[steps.Request], reported: Amount) -> Amount:
    """Return the amount that an attempt used: its ``requests`` or, if larger, ``reported``.

    The usage of a program is only in the report, even if the program answered in place of a model
    agent. A request of unknown usage is only in ``requests``.
    """
    counted = sum((each.amount for each in requests), Amount())
    if counted != Amount():
        return replace(
            counted,
            tokens=max(counted.tokens, reported.tokens),
            usd=max(counted.usd, reported.usd),
        )
    # A request that failed has no tokens.
    return counted if requests and not reported.tokens else reported


async def _count_grant(session: AsyncSession, row: RunRow, attempt: AttemptRow) -> None:
    """Count all tokens that the claim granted to a cancelled attempt, if an agent owns the job.

    The attempt has no usage, so otherwise an agent could evade its budget by cancelling its own
    runs.
    """
    job = await session.get(JobRow, row.job_id) if row.job_id else None
    if job is not None and owners.is_agent(job.owner):
        attempt.tokens += row.tokens or 0


def _correct(
    attempt: AttemptRow,
    requests: Sequence[steps.Request],
    of_steps: Mapping[str, Any] | None,
    reported: Usage | None,
) -> None:
    """Correct the usage of an attempt by its late report, without counting its steps again."""
    said = Amount.of(reported)
    if reported and not said.unpriced:  # the report has the price that the steps lacked
        unpriced = _spent(requests, Amount.of(of_steps)).unpriced
        attempt.unpriced -= min(attempt.unpriced, unpriced)
    attempt.usage = _larger(reported, attempt.usage)
    attempt.tokens = max(attempt.tokens, usage.tokens(attempt.usage))
    attempt.usd = max(attempt.usd, said.usd)
    if attempt.usage and attempt.unpriced:  # its check had an unknown price
        attempt.usage = {**attempt.usage, "cost_usd": None}


def _larger(reported: Usage | None, counted: Usage | None) -> Usage | None:
    """Return the usage with more tokens; if that is ``counted``, with the higher price.

    A program reports the price of its whole answer, but not of a single step.
    """
    if reported is None or counted is None or usage.tokens(reported) >= usage.tokens(counted):
        return counted if reported is None else reported
    prices = reported.get("cost_usd"), counted.get("cost_usd")
    known = [price for price in prices if price is not None]
    return {**counted, "cost_usd": max(known, default=None)}


def _add(attempt: AttemptRow, spent: Amount) -> None:
    attempt.tokens += spent.tokens
    attempt.usd += spent.usd
    attempt.unpriced += spent.unpriced


async def add_usage(session: AsyncSession, run_id: str, used: Mapping[str, Any] | None) -> None:
    """Add ``used`` to an ended run and to its last attempt, whose usage budgets count.

    Do nothing if ``used`` is None or the run does not exist.
    """
    row = await session.get(RunRow, run_id)
    if row is None or used is None:
        return
    row.usage = usage.total((row.usage, used))
    session.add(row)
    attempt = await session.get(AttemptRow, (row.id, row.attempts))
    if attempt is not None:
        attempt.usage = usage.total((attempt.usage, used))
        _add(attempt, Amount.of(used))
        session.add(attempt)


async def update_job(
    session: AsyncSession, row: RunRow, stored: StoredJob | None, now: datetime, *, late: bool
) -> bool:
    """Update the job's last run and counters after an outcome; disable or archive it if necessary.

    ``late`` is True if the outcome corrects an `unknown`, which was counted already. Return True if
    the job's failures disabled it.
    """
    if stored is None:  # the run has no job, or its job cannot be read
        job = await session.get(JobRow, row.job_id) if row.job_id else None
        if job is not None:
            revision = await session.get(RevisionRow, (job.id, job.revision))
            enabled = revision is not None and revision.enabled
            await _count(session, job, row, late=late, enabled=enabled)
        return False
    job, status = stored.row, row.state
    await _count(session, job, row, late=late, enabled=stored.job.enabled)
    schedule = stored.job.schedule
    fired = claim_requests.is_due_key(row.occurrence) and schedule.only_due == row.due
    why, policy = "", stored.job.policy
    if fired and (stored.job.enabled or job.disabled_reason.startswith(store.FIRED_REASON)):
        # A one-time job fires once, even across a restart. A new time that was set since then is
        # kept.
        why = f"{store.FIRED_REASON}, {row.status}"
    elif stored.job.enabled and store.has_had_all_runs(job, stored.job):
        why = f"{store.MAX_RUNS_REASON}: the job has used all {job.run_count} of its runs"
    elif stored.job.enabled and status in FAILURES and not late:
        why = _disable_reason(job, policy.pause_after_failures)
    if fired and status is Status.SUCCEEDED and policy.delete_after_run:
        await archive_job(session, stored, now)
    elif why:
        disabled = stored.job.model_copy(update={"enabled": False})
        await store.change(session, stored, disabled, now, disabled_reason=why)
    return why.startswith(store.FAILURES_REASON)


async def _count(
    session: AsyncSession, job: JobRow, row: RunRow, *, late: bool, enabled: bool
) -> None:
    """Update the job's last run and counters after an outcome."""
    last_due = row.due_to or row.due
    # The audit may decide late about a run that never started; then the job's last run is a later
    # due time.
    older = not row.attempts and job.last_run_at is not None and last_due < job.last_run_at
    if (not late and not older) or job.last_run_id == row.id:
        job.last_run_id, job.last_run_at, job.last_status = row.id, last_due, row.status
    if late:
        await _recount(session, job, enabled=enabled)
    else:
        job.run_count += 1 if row.attempts else 0
        if row.state is Status.SUCCEEDED:
            job.last_error, job.consecutive_failures = None, 0
        elif row.state in FAILURES:
            job.last_error = row.error or row.reason
            job.consecutive_failures += 1
    session.add(job)


def _disable_reason(job: JobRow, most: int) -> str:
    """Return why the failures of a job disable it; empty if they do not."""
    if not 0 < most <= job.consecutive_failures:
        return ""
    last = (job.last_error or "").strip().partition("\n")[0]
    return (
        f"{store.FAILURES_REASON} {job.consecutive_failures} failures in a row, last error: {last}"
    )


async def _recount(session: AsyncSession, job: JobRow, *, enabled: bool) -> None:
    """Recount the failures since the last success, because an `unknown` among them was corrected.

    For an enabled job, failures before it was last enabled do not count.
    """
    await session.flush()
    of_job = col(RunRow.job_id) == job.id
    succeeded = select(func.max(RunRow.finished_at)).where(
        of_job, col(RunRow.status) == Status.SUCCEEDED
    )
    since = (await session.execute(succeeded)).scalar_one()
    if enabled:
        of_revision = col(RevisionRow.job_id) == job.id
        last_disabled = select(func.max(RevisionRow.effective_from)).where(
            of_revision, col(RevisionRow.enabled).is_(False)
        )
        enabled_at = select(func.min(RevisionRow.effective_from)).where(
            of_revision, col(RevisionRow.effective_from) > last_disabled.scalar_subquery()
        )
        since = max(
            filter(None, (since, (await session.execute(enabled_at)).scalar_one())), default=None
        )
    failed = select(RunRow).where(of_job, col(RunRow.status).in_(FAILURES))
    if since is not None:
        failed = failed.where(col(RunRow.finished_at) > since)
    newest = failed.order_by(col(RunRow.finished_at).desc()).limit(1)
    last = (await session.execute(newest)).scalar_one_or_none()
    count = select(func.count()).select_from(failed.subquery())
    job.consecutive_failures = (await session.execute(count)).scalar_one()
    job.last_error = None if last is None else last.error or last.reason


async def archive_job(session: AsyncSession, stored: StoredJob, now: datetime) -> None:
    """Archive the job and skip its waiting runs; its history stays.

    `reconcile_job.delete_leftover_deployments` deletes its deployment later.
    """
    disabled = stored.job.model_copy(update={"enabled": False})
    changed = await store.change(session, stored, disabled, now, disabled_reason="removed")
    changed.row.archived_at = now
    session.add(changed.row)
    waiting = select(RunRow).where(
        col(RunRow.job_id) == stored.id, col(RunRow.status) == Status.WAITING
    )
    removed = Outcome(Status.SKIPPED, REMOVED_REASON)
    for run in (await session.execute(waiting)).scalars().all():
        await record(session, run, removed, now)
