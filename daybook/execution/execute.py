"""Execution of one run: claim, check, attempt, record the outcome, and its state in Prefect.

::

    claim ──► check ──► begin ─┬─► act ─┬─► finish ──► send ──► artifact ──► session ──► state
      ▲         └► skipped     │        │
      ├─────── claim lost ─────┘        │   before the effect, so the run may be claimed again
      └─────── waiting, once more ──────┘   a temporary error, and the job has retries left; or a
                                            person has to approve a call or the answer

`checks`, `attempt` and `session_upkeep` have the details; `switched_off` ends a run in place of its
check. The process itself waits up to half a minute; for a longer wait, it reschedules the run in
Prefect (`claim.MAX_IN_PROCESS_WAIT`). A direct call, which Prefect cannot reschedule, waits in its
process, however long the wait is.

Between claim and `begin`, the job's check runs (before the first attempt only), and the flow
prepares the act. If the ledger or Prefect is unreachable before `begin` is recorded, the process
reschedules the run; a direct call raises the error. Afterwards it does not, because the effect may
have happened. A run in another work pool that cannot open the job's ledger ends as crashed instead
(`ledger_opening`): its environment may stay wrong, and the keeper reads the reason in Prefect.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack, nullcontext, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import httpx
from prefect.client.schemas.objects import FlowRun, State
from prefect.exceptions import Abort
from prefect.logging import get_run_logger
from prefect.settings import get_current_settings
from pydantic import BaseModel

from daybook import registry, settings
from daybook.agents import telemetry
from daybook.clock import SYSTEM_CLOCK, Clock
from daybook.errors import (
    DaybookError,
    FenceRefused,
    IllegalTransition,
    InvalidInput,
    LedgerUnreachable,
    Unreachable,
)
from daybook.execution import (
    artifact,
    attempt,
    checks,
    delivery,
    handover,
    lease,
    ledger_opening,
    outcome_spool,
    session_upkeep,
    switched_off,
)
from daybook.execution import claim as claiming
from daybook.execution.attempt import Act, Prepare, RetryAt
from daybook.execution.claim import MAX_IN_PROCESS_WAIT, NO_LEDGER_DELAY
from daybook.execution.handover import Handover
from daybook.execution.recording import OutcomeUnwritten
from daybook.jobs.model import normal_parameters
from daybook.json_text import JsonObject
from daybook.ledger import job_kinds, triggers
from daybook.ledger.engine import Ledger, sharing
from daybook.ledger.states import TERMINAL, Outcome, Status
from daybook.ledger.tables import RunRow, StepRow
from daybook.prefect import occurrence, reconcile, run_log, run_names, states
from daybook.prefect.client import raising_daybook_errors
from daybook.prefect.states import suspend_flow_run, terminal_state
from daybook.processes.ending import wait_shielded
from daybook.runs import claims, steps
from daybook.runs.claim_requests import Finished, Granted
from daybook.schedules.durations import to_text
from daybook.timing import TIMING

log = logging.getLogger(__name__)

UNAVAILABLE_ERRORS = (Unreachable, httpx.TransportError)
"""Temporary errors: the ledger or Prefect is unreachable."""


_STOPPED_UNBEGUN = Outcome(Status.CANCELLED, "stopped before it began")
"""Outcome of a direct call that was stopped before it began; no other process would claim it."""

_UNBEGUN = (Status.SKIPPED, Status.MISSED)
_UNBEGUN_STATES = {terminal_state(status, "").name for status in _UNBEGUN}
"""Names of the Prefect states of skipped and missed runs, whose effect never started."""

CHECK_GRACE = timedelta(seconds=5)
"""Time that a check may take beyond its timeout.

This is less than `Timing.timeout_margin`, so that the run's process, and not the worker, ends the
check, and the error names the check.
"""


@dataclass(frozen=True)
class _Run:
    """The flow run to execute, with all data that its execution needs.

    ``given`` is the worker's handover, if any. ``refused`` is the reason why the parameters are
    invalid; it is empty if they are valid.
    """

    flow_run: FlowRun
    given: Handover | None
    kind: str
    parameters: JsonObject
    refused: str
    check: checks.CheckCallable
    prepare: Prepare
    clock: Clock

    @property
    def id(self) -> str:
        return str(self.flow_run.id)

    @property
    def is_direct(self) -> bool:
        """Return whether the flow was called without a deployment, in a script or as a subflow."""
        return self.flow_run.deployment_id is None


async def carry_out(
    kind: str,
    parameters: JsonObject,
    prepare: Prepare,
    *,
    check: checks.CheckCallable = checks.check_job,
    clock: Clock = SYSTEM_CLOCK,
) -> State[Any]:
    """Execute the current flow run; return the state for the flow to return.

    ``parameters`` are the flow's parameters; `policy` and `notify` are models or JSON. If the
    parameters are invalid, a direct call raises `InvalidInput`, a run for a due time uses the job's
    own parameters, and any other run fails. The data of a completed state is the flow's result.

    Raise Prefect's `Abort` if the run has to wait, or if another process sets the run's state. Also
    raise it if the run was skipped or missed; a direct call returns this state instead. If the
    ledger or Prefect is unreachable before the effect, a direct call raises the error, and any
    other run waits. The same applies if a newer version wrote the ledger, or if a setting is
    invalid; but a run that no worker of Daybook has started ends as crashed if it cannot open the
    job's ledger. A direct call raises `LeaseNotRenewed` if its lease could not be renewed in time.
    """
    flow_run, refused = occurrence.current_flow_run(), ""
    parameters = {
        name: value.model_dump(mode="json") if isinstance(value, BaseModel) else value
        for name, value in parameters.items()
    }
    given = handover.received_for(str(flow_run.id))
    try:
        parameters = dict(normal_parameters(kind, parameters))
    except InvalidInput as error:
        if flow_run.deployment_id is None:
            raise
        refused = str(error)
    run = _Run(flow_run, given, kind, parameters, refused, check, prepare, clock)
    if run.is_direct:  # this may be the only process that calls listeners
        registry.find_listeners()
    with run_log.without_last_line_after_abort(run.id):
        try:
            with handover.cancel_on_sigterm() if given is not None else nullcontext():
                state = await _execute(run)
        except attempt.STOP_ERRORS as error:
            if given is None:
                raise
            # Prefect must not report a crash, because the worker records the cause, in the ledger
            # and in Prefect.
            raise Abort(f"ended by its worker: {error!r}") from None
        if not run.is_direct and state.name in _UNBEGUN_STATES:
            await states.end_flow_run(run.id, state)
        return state


async def _execute(run: _Run) -> State[Any]:
    given, clock = run.given, run.clock
    async with AsyncExitStack() as stack:
        outcome: Outcome | RetryAt | None = None
        while not isinstance(outcome, Outcome):
            try:
                if outcome is None:
                    ledger = await ledger_opening.open_ledger(stack, run.flow_run, given, run.clock)
                    stack.enter_context(sharing(ledger))
                    # The worker compares `RetryAt.until` with the ledger's clock.
                    clock = ledger.clock if clock is SYSTEM_CLOCK else clock
                claimed = await _claim_and_begin(ledger, run)
            except UNAVAILABLE_ERRORS as error:
                if run.is_direct:
                    raise
                # No ledger, no effect (promise 7): reschedule the run.
                await suspend_flow_run(run.id, ledger_opening.next_try(given, clock), str(error))
            if isinstance(claimed, Finished):
                return _state_of_end(claimed, run)
            granted, number, act = claimed
            try:
                outcome = await attempt.run_attempt(
                    ledger, granted, number, act, clock, given=given
                )
            except OutcomeUnwritten as error:
                log.error("%s", error, extra={"action": "outcome_unwritten"})
                return _state_of_unwritten(granted, run, error)
            except (lease.LeaseLost, FenceRefused, IllegalTransition) as error:
                return await _decided_elsewhere(ledger, granted, run, error)
            if isinstance(outcome, RetryAt):
                await telemetry.flush()  # the process ends before a long delay
            if isinstance(outcome, RetryAt) and given is not None:
                given.report(waiting=outcome.until)
                if outcome.until - clock.now() <= MAX_IN_PROCESS_WAIT:
                    await clock.wait_until(outcome.until)
        answered = outcome
        outcome, seconds, made_steps = await _recorded(ledger, run, granted, outcome)
        if given is not None:
            given.report(ended=outcome.status)
        rows = await delivery.send_pending(ledger, granted.run_id, alone=run.is_direct)
        is_failure = outcome.status not in {Status.SUCCEEDED, Status.CANCELLED}
        level = logging.ERROR if is_failure else logging.INFO
        get_run_logger().log(level, "%s", artifact.log_lines(granted, outcome, number, seconds))
        await artifact.publish(granted, outcome, number, rows, seconds, steps=made_steps)
        if granted.job is not None:
            await _push(granted.job.id)
        await _tend_session(ledger, run, granted, answered)
        await telemetry.flush()
    return _state(granted.run_id, outcome, run)


async def _tend_session(ledger: Ledger, run: _Run, granted: Granted, answered: Outcome) -> None:
    """Title or compress the session; return early if the worker cancels this work.

    A cancellation is no error, because the run has its outcome already.
    """
    try:
        await session_upkeep.tend(ledger, granted, answered)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if run.given is None or task is None:
            raise
        task.uncancel()


async def _claim_and_begin(ledger: Ledger, run: _Run) -> tuple[Granted, int, Act] | Finished:
    """Claim, prepare and begin; return the claim, the attempt's number and its act.

    If the run does not begin, return its end instead.
    """
    flow_run, given = run.flow_run, run.given
    if given is not None:
        with suppress(FenceRefused):  # if the worker's claim was lost or used, claim again
            granted = await claims.read_grant(ledger, given.run_id, given.fence)
            prepared = await _check_and_begin(ledger, run, granted)
            if prepared is not None:
                return prepared
    deployment_id = str(flow_run.deployment_id) if flow_run.deployment_id else None
    if occurrence.belongs_to_other_ledger(flow_run, ledger.id):
        if given is None:
            why = f"the ledger at {ledger.place} is not the ledger of the job; set "
            why += "DAYBOOK_LEDGER_URL in the environment of the run"
            await ledger_opening.end_as_crashed(run.id, why)
        why = (
            f"the run and its worker use different ledgers (the worker: {ledger.id}); check the "
            "worker's DAYBOOK_HOME"
        )
        await suspend_flow_run(run.id, ledger.now() + NO_LEDGER_DELAY, why)
    request = await occurrence.build_claim_request(
        ledger,
        flow_run,
        run.parameters,
        kind=run.kind,
        holder=given.holder if given else occurrence.current_holder(),
        starts=flow_run.run_count,
        refused=run.refused,
        # A direct call counts towards the limit of active runs, but does not wait for it.
        most=settings.load().max_concurrent if deployment_id else None,
    )
    while True:
        answer = await claiming.wait_for_claim(
            ledger,
            request,
            run.clock,
            deployment_id=deployment_id,
            made_by=str(flow_run.created_by.id) if flow_run.created_by else None,
            patience=timedelta(0) if given else MAX_IN_PROCESS_WAIT,
        )
        if isinstance(answer, Finished):
            if request.job_id is not None and answer.run_id is not None:
                await _push(request.job_id)
            return answer
        if given is not None:
            given.report(claimed=answer.fence)
        prepared = await _check_and_begin(ledger, run, answer)
        if prepared is not None:
            return prepared


async def _check_and_begin(
    ledger: Ledger, run: _Run, granted: Granted
) -> tuple[Granted, int, Act] | Finished | None:
    """Check, prepare and begin a claimed run; if it does not begin, return its end.

    Return None if the claim was lost, or the run was ended in Prefect, in the meantime. Also return
    None if the lease could not be renewed during the check: the run then waits, and may be claimed
    again. In this case, a direct call is cancelled and raises `LeaseNotRenewed`.
    """
    naming = asyncio.create_task(_name_run(run, granted))  # concurrent, as nothing depends on it
    checked, prepared = checks.NO_CHECK, granted
    act: Act | None = None
    outcome = None
    try:
        checked = switched_off.verdict(run.kind, granted)
        address = get_current_settings().api.url or "a temporary address"
        with raising_daybook_errors(address):
            if checked.opens and not granted.attempts:
                checked = await _checked(ledger, run, granted)
            if checked.opens:
                prepared = checked.apply(granted)
                act = await _prepare(run, prepared)
            else:
                outcome = Outcome(Status.SKIPPED, checked.reason, usage=checked.usage)
    except UNAVAILABLE_ERRORS as error:
        until = ledger.now() + NO_LEDGER_DELAY
        with suppress(FenceRefused, IllegalTransition):  # lost, or ended in Prefect, meanwhile
            await claims.postpone(ledger, granted.run_id, granted.fence, until, str(error))
        raise
    except lease.LeaseNotRenewed as error:
        log.warning("%s", error, extra={"action": "lease_not_renewed"})
        await _give_back(ledger, run, granted, error)
        return None
    except (lease.LeaseLost, FenceRefused) as error:
        log.warning("%s", error, extra={"action": "fence_refused"})
        return None
    except Exception as error:
        outcome = _failure(granted, error, checked)
    finally:
        await naming
    if act is None:
        assert outcome is not None
        return await _end_unbegun(ledger, granted, run, outcome, checked)
    try:
        number = await claims.begin(
            ledger, granted.run_id, granted.fence, usage=checked.usage, found=checked.found
        )
    except BaseException as error:
        await attempt.close_act(act)
        if not isinstance(error, FenceRefused):
            raise
        # The claim was lost before the effect, so the run may be claimed again.
        log.warning("%s", error, extra={"action": "fence_refused"})
        return None
    if run.given is not None:
        run.given.report(running=number)
    return prepared, number, act


async def _prepare(run: _Run, granted: Granted) -> Act:
    """Prepare the act of a claimed run.

    An attempt records a decided answer without its act. So an agent that was removed since, or an
    unreachable Prefect, must not prevent this attempt, and its act would be prepared later.
    """
    if not granted.is_answer_decided:
        return await run.prepare(granted)

    async def act() -> Outcome | attempt.AttemptResult:
        return await (await run.prepare(granted))()

    return act


async def _give_back(ledger: Ledger, run: _Run, granted: Granted, error: DaybookError) -> None:
    """Make a claimed run wait because of ``error``; cancel a direct call and raise ``error``."""
    until = ledger.now() + NO_LEDGER_DELAY
    with suppress(LedgerUnreachable, FenceRefused, IllegalTransition):
        if run.is_direct:
            await claims.finish(ledger, granted.run_id, granted.fence, _STOPPED_UNBEGUN)
        else:
            await claims.postpone(ledger, granted.run_id, granted.fence, until, str(error))
    if run.is_direct:
        raise error


async def _checked(ledger: Ledger, run: _Run, granted: Granted) -> checks.Verdict:
    """Run the check; renew the lease meanwhile, unless the worker renews it."""
    policy = granted.policy
    if run.check is checks.check_job and not policy.check:
        return checks.NO_CHECK
    if run.given is not None:
        run.given.report(checking=granted.fence)
        verdict = await _in_time(run, granted, policy.timeout)
        run.given.report(claimed=granted.fence)  # the preparation that follows has no time limit
        return verdict
    try:
        every = TIMING.run_lease_renewal.total_seconds()
        async with lease.keep_lease(ledger.address, granted, every):
            return await _in_time(run, granted, policy.timeout)
    except attempt.STOP_ERRORS:
        if run.is_direct:
            finishing = claims.finish(ledger, granted.run_id, granted.fence, _STOPPED_UNBEGUN)
            await wait_shielded(asyncio.create_task(finishing))
        raise


async def _in_time(run: _Run, granted: Granted, timeout: timedelta) -> checks.Verdict:
    """Run the check within the timeout of one attempt, plus `CHECK_GRACE` for its clean-up.

    Raise `CheckFailed` if the check takes longer.
    """
    limit = asyncio.timeout((timeout + CHECK_GRACE).total_seconds())
    try:
        async with limit:
            return await run.check(granted)
    except TimeoutError:
        if not limit.expired():
            raise
        name = "check" if run.check is checks.check_job else run.kind
        raise checks.CheckFailed(f"{name}: no answer within {to_text(timeout)}") from None


async def _name_run(run: _Run, granted: Granted) -> None:
    if granted.job is None:
        name = run_names.of_call(run.kind, granted.due, settings.load().timezone)
    elif granted.trigger == triggers.RETRY.name:
        return  # Prefect's Retry keeps the run's name
    else:
        name = run_names.of_due(granted.job, granted.due)
    await run_names.rename_own_run(run.flow_run, name)


def _failure(granted: Granted, error: Exception, checked: checks.Verdict) -> Outcome:
    """Return the outcome of a run that ``error`` stopped before it began."""
    if isinstance(error, DaybookError):
        message = str(error)
    else:
        log.exception("run %s failed", granted.run_id, extra={"action": "run_failed"})
        message = f"{type(error).__name__}: {error}"
    usage = error.usage if isinstance(error, checks.CheckFailed) else checked.usage
    return Outcome(Status.FAILED, error=message, usage=usage)


async def _end_unbegun(
    ledger: Ledger, granted: Granted, run: _Run, outcome: Outcome, checked: checks.Verdict
) -> Finished | None:
    """Record the end of a run that did not begin: its check skipped it, or it cannot start.

    Return None if the claim was lost, or the run was ended in Prefect, in the meantime.
    """
    found = None if checked.opens else checked.found
    try:
        await claims.finish(ledger, granted.run_id, granted.fence, outcome, found=found)
    except (FenceRefused, IllegalTransition) as error:
        log.warning("%s", error, extra={"action": "decided_elsewhere"})
        return None
    if run.given is not None:
        run.given.report(ended=outcome.status)
    await delivery.send_pending(ledger, granted.run_id, alone=run.is_direct)
    if granted.job is not None:
        await _push(granted.job.id)
    return Finished(outcome.status, outcome.reason, granted.run_id, run.id, outcome.error)


async def _recorded(
    ledger: Ledger, run: _Run, granted: Granted, outcome: Outcome
) -> tuple[Outcome, float | None, list[StepRow]]:
    """Return the outcome with the usage of all attempts, the duration in seconds, and the steps.

    Read usage, duration and steps from the ledger. If the ledger is unreachable, return the outcome
    unchanged, None, and no steps. Also store the spooled outcomes of other runs, whose workers may
    have exited.
    """
    with suppress(LedgerUnreachable):
        await outcome_spool.drain(ledger)
        found = list[StepRow]()
        async with ledger.read() as session:
            row = await session.get(RunRow, granted.run_id)
            if job_kinds.asks_agent(run.kind):
                found = await steps.of_run(session, granted.run_id)
        if row is not None:
            # An attempt that waited for an approval has usage from before the wait.
            usage = row.usage if granted.attempts else outcome.usage
            return replace(outcome, usage=usage), artifact.duration_seconds(row), found
    return outcome, None, []


def _state_of_unwritten(granted: Granted, run: _Run, error: OutcomeUnwritten) -> State[Any]:
    """Return the Prefect state for an outcome that is not in the ledger.

    Raise `Abort` if the outcome is in the spool, unless the run is a direct call.
    """
    if not error.spooled:
        return _state(granted.run_id, Outcome(Status.UNKNOWN, str(error)), run)
    if not run.is_direct:
        # The process that drains the spool updates Prefect. If Prefect had the end before the
        # ledger, it would look as if this process had recorded no outcome.
        raise Abort(str(error))
    return _state(granted.run_id, error.outcome, run)


async def _decided_elsewhere(
    ledger: Ledger, granted: Granted, run: _Run, error: DaybookError
) -> State[Any]:
    """Return the state of a run whose end another process decided.

    The ledger keeps this process's outcome as evidence. Raise `Abort` if a later start of the same
    flow run holds the run or has yet to claim it. Also raise `Abort` if the run was stopped so that
    it can be rerun (in this case, a direct call raises `LeaseNotRenewed`).
    """
    log.warning("%s", error, extra={"action": "decided_elsewhere"})
    if isinstance(error, lease.LeaseNotRenewed):  # the ledger is unreachable
        if run.is_direct:
            raise error
        # Prefect must not get an end, which would prevent the rerun.
        raise Abort(str(error))
    async with ledger.read() as session:
        row = await session.get(RunRow, granted.run_id)
    assert row is not None
    if row.state in TERMINAL:
        known = Outcome(row.state, row.reason, row.output, row.result, row.error)
        return _state(row.id, known, run)
    if row.flow_run_id == run.id:
        # A later start of this flow run sets its state.
        raise Abort(str(error))
    return _state(row.id, Outcome(Status.SKIPPED, f"run {row.id[:8]} was taken over"), run)


def _state_of_end(end: Finished, run: _Run) -> State[Any]:
    if end.status in _UNBEGUN and not run.is_direct:  # the engine logs any other state
        line = run_log.End(run.flow_run.id, end.status, end.reason)
        get_run_logger().log(line.level, "%s", line.line)
    return _state(end.run_id, Outcome(end.status, end.reason, error=end.error), run)


async def _push(job_id: str) -> None:
    try:
        await reconcile.push(job_id)
    except (DaybookError, httpx.HTTPError) as error:
        # The job stays marked as pending, and the next reconciliation applies it.
        log.warning("the job is not reconciled yet: %s", error, extra={"action": "push_failed"})


def _state(run_id: str | None, outcome: Outcome, run: _Run) -> State[Any]:
    """Return the flow's final state.

    The data of a completed state is the result for a caller or a parent flow. Any other state has
    no data, so Prefect creates the caller's exception from the message.
    """
    message = states.outcome_message(
        outcome.status, run_id, outcome.error, outcome.reason, outcome.output
    )
    result = {
        "run_id": run_id,
        "status": str(outcome.status),
        "reason": outcome.reason,
        "output": outcome.output,
        "result": outcome.result,
        "error": outcome.error,
    }
    if run.is_direct:
        return states.of_direct_call(outcome.status, message, result)
    return terminal_state(outcome.status, message, result)
