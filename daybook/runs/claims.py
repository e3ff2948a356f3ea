"""Claim, begin, finish: the life of one occurrence in three transactions (`docs/promise.md`).

::

    claim ─► Granted(fence)          the caller may begin; it holds a lease
           ─► Waiting(until)          claim again at ``until``; the row, if it exists, waits
           ─► Finished(status)        the run has its outcome, from this claim or an earlier one
           ─► HeldElsewhere(holder)   a process already holds the run
           ─► NeedsReconcile(job)     not due in the ledger: reconcile the job with Prefect, then
                                      claim with ``compared=True``; if the run is still not due,
                                      the result is Finished, without a row

    begin  ─► `running`, written immediately before the effect
    wait_for_approval ─► the run waits, and the next `begin` continues the attempt
    finish ─► the outcome, the attempt's end and the job's fields
    holder_died ─► instead of finish, if the process has exited and recorded no outcome

`daybook.runs.decision` decides a claim; `daybook.runs.claim_requests` defines requests and results.
Every later write of a holder is one transaction and carries the fencing token (`leases.renew_all`
compares the holder and the flow run instead). A process that is killed between two transactions
leaves a held row, whose lease expires.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook.errors import FenceRefused, IllegalTransition, InvalidInput
from daybook.jobs import store
from daybook.jobs.store import StoredJob
from daybook.json_text import JsonObject
from daybook.ledger import states, triggers, waits
from daybook.ledger.engine import Ledger
from daybook.ledger.states import TERMINAL, Outcome, Status, Usage
from daybook.ledger.tables import AttemptRow, RunRow
from daybook.runs import (
    approvals,
    claim_requests,
    decision,
    leases,
    outcomes,
    overlap,
    rows,
    sessions,
)
from daybook.runs.approvals import Question
from daybook.runs.claim_requests import ClaimRequest, ClaimResult, Granted
from daybook.runs.claim_rules import RULES
from daybook.timing import TIMING

MAX_REQUEST_ID_LENGTH = 200
"""Maximum length of a request id, in characters: database indexes limit the length of a key."""


async def claim(ledger: Ledger, request: ClaimRequest) -> ClaimResult:
    """Decide whether one occurrence runs, in one transaction under the claim lock."""
    async with ledger.write() as session:
        return await decision.Decision(session, ledger.now(), request).decide(RULES)


async def read_grant(ledger: Ledger, run_id: str, fence: int) -> Granted:
    """Return the grant with this fencing token, for a process that did not claim the run itself.

    Raise `NotFound`, and `FenceRefused` if the claim was lost or the run has started.
    """
    async with ledger.read() as session:
        row = await rows.get_held(session, run_id, fence)
        if row.state is not Status.CLAIMED:
            raise FenceRefused(run_id, fence, row.fence)
        stored = await rows.job_of(session, row)
        return await decision.build_grant(session, row, stored, ledger.now())


async def begin(
    ledger: Ledger,
    run_id: str,
    fence: int,
    *,
    usage: Usage | None = None,
    found: Mapping[str, Any] | None = None,
) -> int:
    """Write `running`, immediately before the effect; return the attempt's number.

    An attempt that waited for an approval continues with its old number. ``usage`` is the usage of
    the run's check since the claim. ``found`` is the check's result, None if the check did not run;
    later attempts use the result, too. Raise `NotFound`, `FenceRefused` if the claim was lost, and
    `IllegalTransition` if the run is already running. After an error, the effect must not happen.
    """
    async with ledger.write() as session:
        row = await rows.get_held(session, run_id, fence)
        now = ledger.now()
        states.check_transition(row.id, row.state, Status.RUNNING)
        row.status = Status.RUNNING
        row.started_at = row.started_at or now
        row.lease_until, row.suspected_at = now + TIMING.run_lease, None
        row.found = _with_found(row, found)
        session.add(row)
        attempt = await outcomes.open_attempt(session, row)
        if attempt is None:
            row.attempts += 1
            attempt = outcomes.new_attempt(row, row.attempts, now, usage)
        else:
            attempt.fence = row.fence
            await approvals.expire(session, row.id, now)
        session.add(attempt)
        return row.attempts


async def finish(
    ledger: Ledger,
    run_id: str,
    fence: int,
    outcome: Outcome,
    *,
    found: Mapping[str, Any] | None = None,
) -> Status:
    """Record the outcome; return the status that the run has now.

    ``found`` is the result of the check if the run ends before an attempt; later checks compare
    their result with it.

    Raise `NotFound`, `FenceRefused` if the writer lost its claim, and `IllegalTransition` if the
    run has another outcome. In the last two cases, the run keeps the refused outcome as evidence.
    Also raise `IllegalTransition`, without evidence, for a status that the run's state does not
    allow. A second call after a commit whose response was lost changes nothing.
    """
    async with ledger.write() as session:
        row = await rows.get(session, run_id)
        if row.fence == fence and row.state in TERMINAL and row.state is outcome.status:
            return row.state
        refusal = _refusal(row, fence, outcome.status)
        if refusal is not None:
            _keep_evidence(session, row, fence, outcome, ledger.now())
        else:
            # Held until the end of the block, so that the session reads the job only once.
            stored = await store.get_readable(session, row.job_id)
            await overlap.skip_runs_awaiting_holder(session, row, ledger.now())
            row.found = _with_found(row, found)
            await outcomes.record(session, row, outcome, ledger.now())
            if outcome.status is Status.SUCCEEDED and outcome.prompt is not None:
                answer = outcome.output or ""
                now = ledger.now()
                await sessions.append(session, row, stored, outcome.prompt, answer, now=now)
    if refusal is not None:
        raise refusal
    return outcome.status


def _with_found(row: RunRow, found: Mapping[str, Any] | None) -> JsonObject | None:
    """Return the payload with the check's result ``found``; the row's old value if it is None."""
    return row.found if found is None else {**(rows.payload_of(row) or {}), **found}


def _refusal(row: RunRow, fence: int, new: Status) -> FenceRefused | IllegalTransition | None:
    """Return the error if ``fence`` is outdated or the run has an outcome other than `unknown`.

    Otherwise return None.
    """
    if row.fence != fence:
        return FenceRefused(row.id, fence, row.fence)
    if row.state in TERMINAL - {Status.UNKNOWN}:
        return IllegalTransition(row.id, row.state, new)
    return None


async def holder_died(
    ledger: Ledger,
    run_id: str,
    fence: int,
    why: str,
    error: str | None = None,
    *,
    usage: Usage | None = None,
) -> Status:
    """Record that the holder's process group has exited; return the status that the run has now.

    A run that had not started waits again. A run that had started becomes `unknown`, or waits if
    its job says `on_lost: rerun` and a rerun is left. A run that has an outcome keeps this outcome.
    ``error`` describes the end of the process, for instance by its last output; ``usage`` is the
    usage of the attempt. Raise `NotFound`, and `FenceRefused` if the claim was lost; in that case,
    the run keeps the caller's report as evidence.
    """
    async with ledger.write() as session:
        row = await rows.get(session, run_id)
        if row.state in TERMINAL:
            return row.state
        held = row.state in states.HELD and row.fence == fence
        if held:
            await leases.release_lost(session, row, ledger.now(), why, error=error, usage=usage)
        else:
            evidence = Outcome(Status.UNKNOWN, why, error=error, usage=usage)
            _keep_evidence(session, row, fence, evidence, ledger.now())
    if not held:
        raise FenceRefused(run_id, fence, row.fence)
    return row.state


def _keep_evidence(
    session: AsyncSession, row: RunRow, fence: int, outcome: Outcome, now: datetime
) -> None:
    evidence = {"fence": fence, "status": str(outcome.status), "reason": outcome.reason}
    evidence |= {"error": outcome.error, "output": outcomes.stored_output(outcome.output)}
    if outcome.usage:
        evidence["usage"] = outcome.usage
    row.evidence = [*row.evidence, evidence | {"at": now.isoformat()}]
    session.add(row)


async def postpone(ledger: Ledger, run_id: str, fence: int, until: datetime, why: str) -> None:
    """Release a claim before the effect; the run waits until ``until``.

    Raise `NotFound`, `FenceRefused` if the claim was lost, and `IllegalTransition` if the run is
    running: the effect may have happened.
    """
    async with ledger.write() as session:
        row = await rows.get_held(session, run_id, fence)
        if row.state is not Status.CLAIMED:
            raise IllegalTransition(row.id, row.state, Status.WAITING)
        await leases.return_to_waiting(session, row, ledger.now(), until, why)


async def retry(
    ledger: Ledger, run_id: str, fence: int, outcome: Outcome, until: datetime
) -> Status:
    """End the attempt with ``outcome`` and make the run wait until ``until`` for the next attempt.

    Return the status that the run has now. A run that is already `unknown` is not retried:
    ``outcome`` becomes its outcome. Raise the same errors as `finish` and keep the same evidence;
    also raise `IllegalTransition` if the run is not running. Calling this again after a commit
    whose response was lost changes nothing, whatever has happened to the run since.
    """
    async with ledger.write() as session:
        row, now = await rows.get(session, run_id), ledger.now()
        if await _is_ended(session, row, fence, outcome):
            return row.state
        refusal = _refusal(row, fence, Status.WAITING)
        if refusal is None and row.state not in (Status.RUNNING, Status.UNKNOWN):
            refusal = IllegalTransition(row.id, row.state, Status.WAITING)
        if refusal is not None:
            _keep_evidence(session, row, fence, outcome, now)
        elif row.state is Status.UNKNOWN:
            await outcomes.record(session, row, outcome, now)
        else:
            await outcomes.close_attempt(session, row, outcome, now)
            asked = f", and {outcome.reason}" if outcome.error and outcome.reason else ""
            error = outcome.error or outcome.reason
            why = f"attempt {row.attempts} {outcome.status}{asked}: {error}"
            await leases.return_to_waiting(session, row, now, until, why)
    if refusal is not None:
        raise refusal
    return row.state


async def wait_for_approval(
    ledger: Ledger, run_id: str, fence: int, question: Question
) -> datetime:
    """Ask a person; the run waits until the decision or the deadline. Return the deadline.

    The run's attempt stays open. Raise `NotFound`, `FenceRefused` if the claim was lost, and
    `IllegalTransition` if the run is not running. Calling this again after a commit whose response
    was lost changes nothing.
    """
    async with ledger.write() as session:
        row, now = await rows.get(session, run_id), ledger.now()
        known = await approvals.of_run(session, run_id)
        if known and approvals.is_same(known[-1], question) and row.fence == fence + 1:
            return known[-1].deadline
        if row.fence != fence:
            raise FenceRefused(run_id, fence, row.fence)
        if row.state is not Status.RUNNING:
            raise IllegalTransition(run_id, row.state, Status.WAITING)
        stored = await store.get_readable(session, row.job_id)
        asked = await approvals.ask(session, row, stored, question, now)
        words = approvals.words(asked, stored.job.schedule.timezone if stored else "UTC")
        until = asked.deadline
        await leases.return_to_waiting(session, row, now, until, words, reason=waits.APPROVAL)
        return asked.deadline


async def decide_approval(
    ledger: Ledger, run_id: str, number: int | None, *, approve: bool, by: str, reason: str = ""
) -> None:
    """Record a person's decision about the call or answer of a waiting run, and make the run due.

    Only the first decision counts. Raise `NotFound`, and the errors of `approvals.decide`.
    """
    async with ledger.write() as session:
        row = await rows.get(session, run_id)
        now = ledger.now()
        await approvals.decide(session, row, number, approve=approve, by=by, reason=reason, now=now)


async def _is_ended(session: AsyncSession, row: RunRow, fence: int, outcome: Outcome) -> bool:
    """Return whether the attempt that started with ``fence`` has ended with ``outcome``."""
    query = select(AttemptRow).where(
        col(AttemptRow.run_id) == row.id, col(AttemptRow.fence) == fence
    )
    attempt: AttemptRow | None = (await session.execute(query)).scalar_one_or_none()
    if attempt is None:
        return False
    return (attempt.status, attempt.error) == (outcome.status, outcome.error)


async def cancel(ledger: Ledger, run_id: str, why: str = "cancelled") -> RunRow:
    """Cancel a waiting run and return it; return a held or ended run unchanged.

    Only the holder of a held run can end its process. Raise `NotFound` for an unknown run.
    """
    async with ledger.write() as session:
        row = await rows.get(session, run_id)
        if row.state is Status.WAITING:
            await outcomes.record(session, row, Outcome(Status.CANCELLED, why), ledger.now())
        return row


async def request(
    ledger: Ledger,
    stored: StoredJob,
    request_id: str,
    trigger: str,
    *,
    parameters: JsonObject | None = None,
    retry_of: str | None = None,
) -> RunRow:
    """Request a run now; a repeated request with the same id returns the same run.

    ``parameters`` are by default the job's parameters. ``retry_of`` is the id of a run that the new
    run repeats, with the same payload. Raise `InvalidInput` for a request id that is too long for a
    key.
    """
    _check_request_id(request_id)
    key = claim_requests.request_key(stored.id, request_id)
    async with ledger.write() as session:
        if (existing := await rows.find(session, None, key)) is not None:
            return existing
        now = ledger.now()
        row = new_requested_row(stored, key, trigger, now, now)
        row.retry_of = retry_of
        if retry_of and (repeated := await session.get(RunRow, retry_of)) is not None:
            row.found = rows.payload_of(repeated)
        if parameters:
            row.parameters = parameters
            row.agent = claim_requests.agent_of(parameters)
        session.add(row)
        return row


async def request_answer(
    ledger: Ledger, session_id: str, request_id: str, parameters: JsonObject
) -> RunRow:
    """Request a run without a job that answers the prompt in ``parameters``, in a session.

    An empty ``session_id`` starts a new session. The session is stored with the run, so that it can
    be shown before its first answer. A repeated request with the same id returns the same run.
    ``parameters`` are those of an agent prompt, in their normal form. Raise `InvalidInput` for a
    request id that is too long for a key.
    """
    _check_request_id(request_id)
    key = claim_requests.session_request_key(request_id)
    async with ledger.write() as session:
        if (existing := await rows.find(session, None, key)) is not None:
            return existing
        now = ledger.now()
        row = rows.without_job(
            claim_requests.SESSION_KIND, key, triggers.SESSION.name, parameters, now
        )
        row.session_id = session_id or sessions.session_id_of(
            parameters, job_id=None, run_id=row.id
        )
        await sessions.ensure(session, row, str(parameters["prompt"]), now)
        session.add(rows.wait(row, now, "requested"))
        return row


def _check_request_id(request_id: str) -> None:
    if len(request_id) > MAX_REQUEST_ID_LENGTH:
        hint = f"use at most {MAX_REQUEST_ID_LENGTH}"
        raise InvalidInput("request-id", f"has {len(request_id):,} characters", hint)


def new_requested_row(
    stored: StoredJob, occurrence: str, trigger: str, due: datetime, now: datetime
) -> RunRow:
    """Return the row of a requested run, with the job as it is now; the caller stores the row."""
    return rows.wait(rows.of_job(stored, occurrence, trigger, due, now), now, "requested")


async def link_prefect_run(ledger: Ledger, seen: RunRow, flow_run_id: str) -> bool:
    """Record which Prefect run carries a waiting run; return False if nothing was recorded.

    Write nothing if another process has recorded a Prefect run since the row was ``seen``, or if
    the run no longer waits. Two processes that create a Prefect run for the row at the same time
    use the same key and get the same one. So it counts once, and the slower process does not
    replace a later Prefect run with an earlier one. Raise `NotFound` if the row was deleted.
    """
    async with ledger.write() as session:
        row = await rows.get(session, seen.id)
        if row.state is not Status.WAITING or row.prefect_runs != seen.prefect_runs:
            return False
        row.flow_run_id = flow_run_id
        row.prefect_runs += 1
        session.add(row)
        return True
