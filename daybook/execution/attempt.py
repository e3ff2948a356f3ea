"""One attempt at the effect, after `begin`: act, and record the outcome.

::

    act ──► finish ──► the outcome
     │         ├ temporary, attempts left      waiting for the next one: `RetryAt`
     │         ├ the ledger is unreachable     spooled, and retried for two leases:
     │         │                               `OutcomeUnwritten`
     │         └ decided elsewhere             kept as evidence: `FenceRefused` or
     │                                         `IllegalTransition`
     ├ AgentTimeout               timed_out, temporary
     ├ AgentTemporary             failed, temporary
     ├ ApprovalNeeded             the run waits for a person, and the attempt goes on afterwards
     ├ a person refused the call  failed, if the job itself makes the call
     ├ any other error            failed
     ├ a tool call failed         succeeded with warnings; failed with `fail_on_tool_error`
     ├ the ledger is newer        unknown, because the steps cannot be recorded; with
     │                            `on_lost: rerun`, as if it was not renewed in time
     ├ cancelled in Prefect       cancelled
     ├ the process is stopped     unknown: the effect may have happened
     ├ a renewal was refused      the agent is ended, a known outcome is kept: `LeaseLost`
     └ not renewed in time        only with `on_lost: rerun`: the agent is ended, and the run is
                                  repeated when its lease has ended: `LeaseNotRenewed`

If a worker has stopped the process before the act had a result, the worker records the outcome.

The effect is attempted again only if a temporary error ended the attempt and the job has retries
left (promise 4 lists these errors, promise 8 has the rules for timeouts). No attempt follows an
attempt with an unknown outcome, unless the job says `on_lost: rerun` (promise 3).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Protocol, runtime_checkable

from prefect.client.orchestration import get_client
from prefect.exceptions import TerminationSignal

from daybook.agents import telemetry
from daybook.clock import Clock
from daybook.errors import (
    AgentTemporary,
    AgentTimeout,
    DaybookError,
    FenceRefused,
    InvalidInput,
    LedgerNewer,
)
from daybook.execution import journal, lease, recording, retry_delay
from daybook.execution.handover import Handover
from daybook.execution.journal import RunJournal
from daybook.execution.retry_delay import NO_DELAY, RequestedDelay
from daybook.jobs import limits
from daybook.ledger import job_kinds
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Outcome, Status
from daybook.policies.policy import ANSWER, Policy
from daybook.prefect import occurrence, states
from daybook.processes.ending import wait_shielded
from daybook.runs.approvals import ApprovalNeeded, Question
from daybook.runs.claim_requests import Granted
from daybook.timing import TIMING

log = logging.getLogger(__name__)

Act = Callable[[], Awaitable["Outcome | AttemptResult"]]
"""Function of a flow that performs the effect and returns its outcome.

It raises the errors of agents. An act that holds open resources is a `ClosableAct`.
"""


@runtime_checkable
class ClosableAct(Protocol):
    """Act that has to be closed if it is not carried out."""

    async def close(self) -> None: ...


async def close_act(act: object) -> None:
    """Close ``act``, which will not be carried out, if it is a `ClosableAct`."""
    if isinstance(act, ClosableAct):
        await act.close()


Prepare = Callable[[Granted], Awaitable[Act]]
"""Function of a flow that prepares the act between claim and begin, without an effect."""


STOP_ERRORS = (asyncio.CancelledError, TerminationSignal, KeyboardInterrupt, SystemExit)
"""Exceptions that a stop of this process raises in a flow, at any point."""


@dataclass(frozen=True)
class RetryAt:
    """Result of an attempt after which the run waits, at the latest until ``until``.

    After a temporary error, the next attempt starts at ``until``. If a person has to decide, the
    same attempt goes on after the decision, or at ``until`` if there is no decision.
    """

    until: datetime


@dataclass(frozen=True)
class AttemptResult:
    """Result of an act. A ``temporary`` result is retried while retries are left.

    ``asked`` is the delay before a retry that the called service requested. If there is a
    ``question``, a person has to answer it before the attempt can have an outcome.
    """

    outcome: Outcome
    temporary: bool = False
    asked: RequestedDelay = NO_DELAY
    question: Question | None = None


async def run_attempt(
    ledger: Ledger,
    granted: Granted,
    attempt: int,
    act: Act,
    clock: Clock,
    *,
    given: Handover | None = None,
) -> Outcome | RetryAt:
    """Act and record the outcome. Return the outcome in the ledger, or `RetryAt`.

    ``attempt`` is the number of this attempt. With ``given``, a worker renews the lease; if the
    worker stops this process before ``act`` has a result, the worker also records the outcome.
    Raise the errors in the module's diagram, and `STOP_ERRORS`.
    """
    tried: AttemptResult | None = None
    every = TIMING.run_lease_renewal.total_seconds()
    keeping = nullcontext() if given else lease.keep_lease(ledger.address, granted, every)
    try:
        async with keeping:
            with (
                journal.recording(ledger, granted, attempt, clock) as steps,
                _span(granted, attempt) as ended,
            ):
                try:
                    if (decided := await steps.decided_answer()) is not None:
                        tried = AttemptResult(decided)
                    else:
                        tried = await _try(granted, act, steps)
                        tried = _with_warnings(granted, tried, steps.warnings())
                        tried = _with_question(granted, tried)
                except LedgerNewer as error:
                    tried = _unrecordable(granted, error)
                ended(Status.WAITING if tried.question is not None else tried.outcome.status)
    except lease.LeaseNotRenewed:
        if tried is None:
            raise
    except lease.LeaseLost:
        known = (
            tried.outcome
            if tried
            else Outcome(Status.UNKNOWN, "the lease was lost, so the agent was stopped")
        )
        await _run_to_end(lambda: recording.finish_once(ledger, granted, known))
        raise
    except STOP_ERRORS:
        # The agent's adapter has ended the agent: record that while there is time. Keep a known
        # outcome.
        if tried is not None:
            await _record(ledger, granted, attempt, tried, clock)
        elif given is None:
            await _run_to_end(lambda: _record_interruption(ledger, granted))
        raise
    return await _record(ledger, granted, attempt, tried, clock)


def _span(granted: Granted, attempt: int) -> AbstractContextManager[Callable[[str], None]]:
    """Return the context of an attempt's span (`daybook.agents.telemetry`)."""
    job = granted.job.row.name if granted.job else ""
    attributes: dict[str, str | int] = {
        "daybook.job.name": job,
        "daybook.job.id": granted.job.id if granted.job else "",
        "daybook.run.id": granted.run_id,
        "daybook.run.attempt": attempt,
        "daybook.run.due": granted.due.astimezone(UTC).isoformat(),
        "daybook.run.trigger": granted.trigger,
        "gen_ai.conversation.id": granted.session_id,
    }
    given = {name: value for name, value in attributes.items() if value != ""}
    return telemetry.run_span(granted.run_id, f"run {job or granted.kind}", given)


async def _record(
    ledger: Ledger, granted: Granted, attempt: int, tried: AttemptResult, clock: Clock
) -> Outcome | RetryAt:
    """Record the outcome of the run, or only of its attempt if another attempt follows.

    If there is a question instead, record that the run waits for the answer.
    """
    if (question := tried.question) is not None:
        until = list[datetime]()

        async def ask() -> None:
            until.append(await recording.ask(ledger, granted, question, clock))

        await _run_to_end(ask)
        return RetryAt(until[-1])
    policy = Policy.model_validate(granted.parameters["policy"])
    retry, outcome = None, tried.outcome
    if tried.temporary and attempt <= policy.retries:
        decided = retry_delay.decide(granted, policy, attempt, tried.asked, clock.now())
        if decided.until is not None:
            retry = RetryAt(decided.until)
            outcome = replace(outcome, reason=decided.why or outcome.reason)
        else:
            error = f"{outcome.error}; no further attempt: {decided.why}"
            outcome = replace(outcome, error=error)
    is_waiting = False

    async def finish() -> None:
        nonlocal is_waiting
        at = retry.until if retry is not None else None
        status = await recording.finish(ledger, granted, outcome, clock, at)
        is_waiting = status is Status.WAITING

    await _run_to_end(finish)
    # A run that was marked `unknown` ends with the outcome of this attempt.
    return retry if retry is not None and is_waiting else outcome


async def _try(granted: Granted, act: Act, steps: RunJournal) -> AttemptResult:
    try:
        if refusal := await _refusal_of_own_call(act, steps):
            return AttemptResult(Outcome(Status.FAILED, error=refusal))
        result = await act()
        return result if isinstance(result, AttemptResult) else AttemptResult(result)
    except AgentTimeout as error:
        output = error.output or None
        timed_out = Outcome(
            Status.TIMED_OUT, str(error), error=str(error), output=output, usage=error.usage
        )
        return AttemptResult(timed_out, temporary=error.allows_retry)
    except AgentTemporary as error:
        asked = RequestedDelay.of("the provider", error.retry_after)
        failed = Outcome(Status.FAILED, error=str(error), usage=error.usage)
        return AttemptResult(failed, temporary=error.allows_retry, asked=asked)
    except ApprovalNeeded as error:
        failed = Outcome(Status.FAILED, error=str(error))
        return AttemptResult(failed, question=error.question)
    except (FenceRefused, LedgerNewer):  # another process decides or records the run's end
        raise
    except DaybookError as error:
        output = getattr(error, "output", "") or None
        usage = getattr(error, "usage", None)
        return AttemptResult(Outcome(Status.FAILED, error=str(error), output=output, usage=usage))
    except Exception as error:
        log.exception("run %s failed", granted.run_id, extra={"action": "run_failed"})
        return AttemptResult(Outcome(Status.FAILED, error=f"{type(error).__name__}: {error}"))


def _unrecordable(granted: Granted, error: LedgerNewer) -> AttemptResult:
    """Return the result of an attempt whose steps cannot be recorded any more.

    Its earlier calls may have had effects. Raise `LeaseNotRenewed` if the run may be repeated.
    """
    if granted.policy.on_lost == "rerun":
        raise lease.LeaseNotRenewed(str(error)) from error
    return AttemptResult(Outcome(Status.UNKNOWN, str(error), error=str(error)))


async def _refusal_of_own_call(act: Act, steps: RunJournal) -> str:
    """Return why the job must not make its own call; empty if it may.

    Close the act if there is a reason, or if a person has to decide first.
    """
    try:
        refusal = await steps.refusal_of_own_call()
    except BaseException:
        await close_act(act)
        raise
    if refusal:
        await close_act(act)
    return refusal


def _with_warnings(
    granted: Granted, tried: AttemptResult, warnings: tuple[str, ...]
) -> AttemptResult:
    """Add ``warnings`` about tools to the answer's own warnings.

    With `fail_on_tool_error`, a success with ``warnings`` becomes a failure.
    """
    outcome = tried.outcome
    if outcome.status is not Status.SUCCEEDED or not (warnings or outcome.warnings):
        return tried
    if warnings and Policy.model_validate(granted.parameters["policy"]).fail_on_tool_error:
        return AttemptResult(replace(outcome, status=Status.FAILED, error="; ".join(warnings)))
    warnings = outcome.warnings + warnings
    reason = "; ".join(filter(None, (outcome.reason, f"warning: {'; '.join(warnings)}")))
    return AttemptResult(replace(outcome, reason=reason, warnings=warnings))


def _with_question(granted: Granted, tried: AttemptResult) -> AttemptResult:
    """If a person has to approve the answer, return the question instead of the answer.

    The result's own outcome is a failure without the answer, in case the lease is lost before the
    question is stored. If the owner's limits are invalid, return a failure.
    """
    if tried.outcome.status is not Status.SUCCEEDED or not job_kinds.asks_agent(granted.kind):
        return tried
    policy = Policy.model_validate(granted.parameters["policy"])
    owner = granted.job.row.owner if granted.job else ""
    usage = tried.outcome.usage
    try:
        if ANSWER not in limits.approvals_of(policy, owner):
            return tried
    except InvalidInput as error:  # the settings, which may have changed since, are invalid
        return AttemptResult(Outcome(Status.FAILED, error=str(error), usage=usage))
    unasked = Outcome(Status.FAILED, error="no person was asked to approve the answer", usage=usage)
    question = Question.of_answer(tried.outcome, policy.approve_within)
    return AttemptResult(unasked, question=question)


async def _record_interruption(ledger: Ledger, granted: Granted) -> None:
    run = occurrence.current_flow_run()
    cancelled = False
    try:
        async with get_client() as client:
            state = (await client.read_flow_run(run.id)).state
            cancelled = states.is_being_cancelled(state)
    except Exception as error:
        log.warning(
            "cannot read from Prefect why the process was stopped: %s",
            error,
            extra={"action": "interrupt_unexplained"},
        )
    if cancelled:
        outcome = Outcome(Status.CANCELLED, "cancelled")
    else:
        outcome = Outcome(Status.UNKNOWN, "the process was stopped while the agent was running")
    await recording.finish_once(ledger, granted, outcome)


async def _run_to_end(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run ``work`` to its end even if this task is cancelled; raise the cancellation afterwards."""
    await wait_shielded(asyncio.create_task(work()), repeat=work)
