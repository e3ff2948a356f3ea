"""Claim, heartbeat and end of a task run, each in one transaction.

::

    claim ─► Claimed(run, task, token)      the first run of the queue that fits the session;
                                            a search without the claim lock comes first
    heartbeat ─► the lease starts again from now
    complete, fail, release ─► the token is no longer valid

The claim returns the token once, and the ledger stores only the token's digest. Every operation
after the claim needs the token. For a wrong token, for the token of an earlier claim, and for a
token whose lease has expired (`lease_until <= now`), the operation raises `TokenRefused` and
changes nothing.

If the response to a claim is lost, no session has the token, so the lease expires. If the claim had
an idempotency key, the session can repeat the claim until then, and gets the same run with a new
token. With one key, a session never claims a second run.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, exists, true
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, or_, select

from daybook import owners
from daybook.errors import NothingClaimable, TokenRefused
from daybook.features.tasks import lease_expiry, matching, model, rows, selection, sessions, states
from daybook.features.tasks.matching import Candidate, RunRequirements
from daybook.features.tasks.states import TaskRunStatus
from daybook.features.tasks.tables import (
    TASK_RUN,
    TaskEventRow,
    TaskRow,
    TaskRunRow,
    TaskSessionRow,
)
from daybook.ledger import references
from daybook.ledger.engine import Ledger
from daybook.ledger.tokens import digest
from daybook.names import MAX_LINE_LENGTH, validate_line
from daybook.redaction import TOKEN_PREFIX, redact_tokens
from daybook.short_text import one_line


@dataclass(frozen=True)
class Claimed:
    """A run that a session has claimed. The ledger does not store ``token`` itself."""

    run: TaskRunRow
    task: TaskRow
    token: str = field(repr=False)


async def claim(
    ledger: Ledger,
    session_name: str,
    lease: timedelta | str | None = None,
    *,
    priority_min: str = model.LOWEST,
    key: str | None = None,
) -> Claimed:
    """Claim the first run of the queue that fits the session, for ``lease`` or the default.

    Only runs with at least the priority ``priority_min`` count. ``key`` is an idempotency key. If
    the session repeats its claim with the same key, it gets the run that it still holds from that
    claim, with a new token and lease.

    Raise `NothingClaimable` with the reason, `NotFound` for an unknown session, and `InvalidInput`
    for an invalid lease, priority or key. A claim that gets no run may record a sign of life of the
    session, and expire the lease of a run that the session held.
    """
    seconds = int(model.lease_duration(lease).total_seconds())
    lowest = model.priority_index(priority_min, "priority_min")
    key = None if key is None else model.check_key(key)
    async with ledger.read() as session:
        row, now = await sessions.find(session, session_name), ledger.now()
        is_repeated = key is not None and await _claimed_with(session, row, key) is not None
        reason, touch_due = (
            "" if is_repeated else await _nothing_claimable_reason(session, row, lowest, now),
            sessions.is_touch_due(row, now),
        )
    if reason:
        if touch_due:
            await _touch_session(ledger, session_name)
        raise NothingClaimable(reason)
    token = TOKEN_PREFIX + secrets.token_urlsafe(32)
    async with ledger.write() as session:
        # Check everything again, because the ledger may have changed since the read.
        row, now = await sessions.find(session, session_name), ledger.now()
        earlier = None if key is None else await _claimed_with(session, row, key)
        if earlier is not None:
            selected = await _select_again(session, row, earlier, now)
        else:
            selected = await _select(session, row, lowest, now)
        if isinstance(selected, tuple) and earlier is not None:
            task, run = selected
            run.token_digest = digest(token)
            run.lease_seconds, run.lease_until = seconds, now + timedelta(seconds=seconds)
            again = "claimed again with the same idempotency key"
            actor = owners.current_actor().owner
            rows.record_event(session, run, "claimed", now, actor=actor, reason=again, of=row)
        elif isinstance(selected, tuple):
            task, run = selected
            states.check(run.id, TaskRunStatus(run.status), TaskRunStatus.CLAIMED)
            run.status = TaskRunStatus.CLAIMED
            run.session_id, run.token_digest = row.id, digest(token)
            run.lease_seconds, run.lease_until = seconds, now + timedelta(seconds=seconds)
            run.claimed_at = now
            run.fence += 1
            run.starved_cycles, run.tiers, run.spawned_run_id, run.attention = 0, [], None, ""
            actor = owners.current_actor().owner
            rows.record_event(session, run, "claimed", now, actor=actor, of=row, claim_key=key)
        if row.expires_at > now:
            sessions.touch(row, now)
    if isinstance(selected, str):
        raise NothingClaimable(selected, is_final=earlier is not None)
    return Claimed(run, task, token)


async def _touch_session(ledger: Ledger, session_name: str) -> None:
    async with ledger.write() as session:
        row, now = await sessions.find(session, session_name), ledger.now()
        if row.expires_at > now:
            sessions.touch(row, now)


async def heartbeat(
    ledger: Ledger, run_ref: str, token: str, lease: timedelta | str | None = None
) -> TaskRunRow:
    """Renew the lease from now, with its previous duration, or with ``lease`` if it is given.

    Return the run. Raise `TokenRefused`, `NotFound`, `Ambiguous`, and `InvalidInput` for an invalid
    lease.
    """
    new_seconds = None if lease is None else int(model.lease_duration(lease).total_seconds())
    async with _held(ledger, run_ref, token) as (_, run, _row, now):
        assert run.lease_seconds is not None
        run.lease_seconds = new_seconds or run.lease_seconds
        run.lease_until = now + timedelta(seconds=run.lease_seconds)
    return run


async def complete(ledger: Ledger, run_ref: str, token: str, output: str = "") -> TaskRunRow:
    """Record that the task is done, with its ``output``. Return the run.

    Raise `TokenRefused`, `NotFound`, `Ambiguous`, and `InvalidInput` if the output is too long.
    """
    model.check_text(output, "output")
    async with _held(ledger, run_ref, token) as (session, run, row, now):
        rows.change_status(run, TaskRunStatus.COMPLETED, now)
        run.output, run.done_by = output, row.name
        rows.record_event(
            session, run, "completed", now, actor=owners.current_actor().owner, of=row
        )
    return run


async def fail(ledger: Ledger, run_ref: str, token: str, error: str = "") -> TaskRunRow:
    """Record that the run failed, with its ``error``. Return the run.

    Raise `TokenRefused`, `NotFound`, `Ambiguous`, and `InvalidInput` if the error is too long.
    """
    model.check_text(error, "error")
    async with _held(ledger, run_ref, token) as (session, run, row, now):
        rows.change_status(run, TaskRunStatus.FAILED, now)
        run.error, run.done_by = error, row.name
        actor = owners.current_actor().owner
        # The reason of the event is the first line that is not blank, without tokens.
        first = next((line for line in error.splitlines() if line.strip()), "")
        shown = "".join(each if each.isprintable() else " " for each in first)
        reason = one_line(redact_tokens(shown), MAX_LINE_LENGTH)
        rows.record_event(session, run, "failed", now, actor=actor, reason=reason, of=row)
    return run


async def release(ledger: Ledger, run_ref: str, token: str, reason: str = "") -> TaskRunRow:
    """Queue the run again, at its old position. Return the run.

    Raise `TokenRefused`, `NotFound`, `Ambiguous`, and `InvalidInput` for an invalid reason.
    """
    reason = validate_line(reason, "reason")
    async with _held(ledger, run_ref, token) as (session, run, row, now):
        rows.change_status(run, TaskRunStatus.QUEUED, now)
        actor = owners.current_actor().owner
        rows.record_event(session, run, "released", now, actor=actor, reason=reason, of=row)
    return run


# --- selection of a run


async def _claimed_with(
    session: AsyncSession, row: TaskSessionRow, key: str
) -> TaskEventRow | None:
    """Return the event of the claim that the session made with this key, or None."""
    query = select(TaskEventRow).where(
        col(TaskEventRow.session_id) == row.id, col(TaskEventRow.claim_key) == key
    )
    event: TaskEventRow | None = (await session.execute(query)).scalar_one_or_none()
    return event


async def _select_again(
    session: AsyncSession, row: TaskSessionRow, earlier: TaskEventRow, now: datetime
) -> tuple[TaskRow, TaskRunRow] | str:
    """Return the task and the run that the session still holds from its ``earlier`` claim.

    If the session no longer holds the run, return the reason.
    """
    run = await session.get_one(TaskRunRow, earlier.run_id)
    is_held = run.session_id == row.id and run.fence == earlier.fence
    if is_held and run.lease_until is not None and run.lease_until > now:
        return await rows.task_of(session, run), run
    state = "claimed, but its lease has expired" if is_held else run.status
    if not is_held and run.status == TaskRunStatus.CLAIMED:
        state = "claimed by another session"
    return (
        f"the idempotency key was used for run {run.id[:8]}, which is {state}; "
        "use a new key for another run"
    )


async def is_run_available(
    session: AsyncSession, row: TaskSessionRow, now: datetime, priority_min: str = model.LOWEST
) -> bool:
    """Return whether a claim of the session would get a run now. Change nothing.

    Only runs with at least the priority ``priority_min`` count. Raise `InvalidInput` if it is
    unknown.

    If the session holds a run whose lease has expired, a claim first expires this lease. Then the
    claim can get the same run again, unless the run needs attention.
    """
    held, lowest = await sessions.held_run(session, row), model.priority_index(priority_min)
    if await selection.claim_refusal_reason(session, row, held, now):
        return False
    candidate = Candidate.of(row, False)
    if held is not None and lease_expiry.requeues_on_expiry(held):
        requirements = RunRequirements.of(await rows.task_of(session, held), held)
        is_high = requirements.priority <= lowest
        if is_high and not matching.refusal_reason(requirements, candidate, now):
            return True
    return await selection.first_fitting(session, candidate, lowest, now) is not None


async def _nothing_claimable_reason(
    session: AsyncSession, row: TaskSessionRow, lowest: int, now: datetime
) -> str:
    """Return the reason why a claim gets no run.

    Return "" if it gets one, or first has to expire an old lease. Change nothing.
    """
    held = await sessions.held_run(session, row)
    if why := await selection.claim_refusal_reason(session, row, held, now):
        return why
    candidate = Candidate.of(row, False)
    if held is not None or await selection.first_fitting(session, candidate, lowest, now):
        return ""
    return await selection.no_match_reason(session, candidate, lowest, now)


async def _select(
    session: AsyncSession, row: TaskSessionRow, lowest: int, now: datetime
) -> tuple[TaskRow, TaskRunRow] | str:
    """Return the task and the run that the session gets. If it gets none, return the reason.

    If the session holds a run whose lease has ended, first expire this lease.
    """
    held = await sessions.held_run(session, row)
    if why := await selection.claim_refusal_reason(session, row, held, now):
        return why
    if held is not None:
        await lease_expiry.expire_lease(session, held, now)
    candidate = Candidate.of(row, False)
    run_id = await selection.first_fitting(session, candidate, lowest, now)
    if run_id is None:
        return await selection.no_match_reason(session, candidate, lowest, now)
    run = await session.get_one(TaskRunRow, run_id)
    return await rows.task_of(session, run), run


# --- authorization by token


@asynccontextmanager
async def _held(
    ledger: Ledger, run_ref: str, token: str
) -> AsyncIterator[tuple[AsyncSession, TaskRunRow, TaskSessionRow, datetime]]:
    """Open a write transaction and find the run for which the token is valid. Touch its session.

    Raise `TokenRefused`, `NotFound`, `Ambiguous`.
    """
    async with ledger.write() as session:
        run, now = await _run(session, run_ref), ledger.now()
        _check(run, token, now)
        row = await rows.holder(session, run)
        assert row is not None  # a claimed run has a session
        if owners.current_actor().is_agent and row.owner != owners.current_actor().owner:
            raise TokenRefused(run.id[:8], "a session of another owner holds it")
        sessions.touch(row, now)
        yield session, run, row, now


def _check(run: TaskRunRow, token: str, now: datetime) -> None:
    """Raise `TokenRefused` unless the token is that of the run's current, unexpired claim."""
    short = run.id[:8]
    if run.token_digest is None or run.lease_until is None:
        raise TokenRefused(short, f"it is {run.status}, so no token is valid")
    if not hmac.compare_digest(run.token_digest, digest(token)):
        raise TokenRefused(short, "the token is wrong")
    if run.lease_until <= now:
        raise TokenRefused(short, f"the lease expired at {run.lease_until.isoformat()}")


async def _run(session: AsyncSession, ref: str) -> TaskRunRow:
    """Return the run with this id or unique short id.

    An agent finds only runs that it or its own sessions claimed. Raise `NotFound`, `Ambiguous`.
    """
    visible: ColumnElement[bool] = true()
    actor = owners.current_actor()
    if actor.is_agent:
        own_sessions = select(TaskSessionRow.id).where(col(TaskSessionRow.owner) == actor.owner)
        visible = exists().where(
            col(TaskEventRow.run_id) == col(TaskRunRow.id),
            col(TaskEventRow.event) == "claimed",
            or_(
                col(TaskEventRow.session_id).in_(own_sessions),
                col(TaskEventRow.actor) == actor.owner,
            ),
        )
    match = await references.resolve(session, ref, {TASK_RUN: visible})
    return await session.get_one(TaskRunRow, match.id)
