"""Carrying out one run: claim, begin, act, settle, and what Prefect is told.

::

    claim ──► check ──► begin ─┬─► act ─┬─► settle ──► tell ──► artifact ──► state
      ▲         └► skipped     │        │                         (`runs.checks`, `runs.attempt`)
      ├─────────── fenced off ─┘        │   the claim was lost before the effect, so it may be
      │                                 │   tried again
      └─────────── waiting, once more ──┘   a temporary error, and the job has retries left

A wait of up to half a minute is done here, a longer one goes back to Prefect (`gate.PATIENCE`).

Between claim and `begin` the job's check is asked, before the first attempt only, and the flow
prepares: it finds out whom to ask, and what. Until `begin` is
written, a ledger or a Prefect that is not to be reached sets the run back. After it nothing
does: the effect may have been had.
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

from daybook import registry, settings
from daybook.clock import SYSTEM, Clock
from daybook.errors import (
    DaybookError,
    FenceRefused,
    IllegalTransition,
    InvalidInput,
    LedgerNewer,
    LedgerUnreachable,
    Unreachable,
)
from daybook.execution import artifact, attempt, checks, delivery, handover, lease, outcome_spool
from daybook.execution import claim as gate
from daybook.execution.attempt import Act, Again, Prepare
from daybook.execution.claim import NO_LEDGER_WAIT, PATIENCE, Reconciler
from daybook.execution.handover import Handover
from daybook.execution.recording import Unwritten
from daybook.jobs import policy as policies
from daybook.jobs.model import normal_parameters
from daybook.ledger.engine import Ledger
from daybook.ledger.states import TERMINAL, Outcome, Status
from daybook.ledger.tables import RunRow
from daybook.prefect import occurrence, run_names, states
from daybook.prefect.states import set_back, state_of
from daybook.processes.ending import to_its_end
from daybook.runs import claims
from daybook.runs.claim_requests import Ended, Granted
from daybook.schedules.durations import to_text
from daybook.timing import TIMING

log = logging.getLogger(__name__)

AWAY = (Unreachable, httpx.TransportError)
"""What says that the ledger or Prefect is not to be reached, which may pass."""


_NEVER_BEGAN = {state_of(status, "").name for status in (Status.SKIPPED, Status.MISSED)}
"""The names of the states of runs that ended before their effect."""

GATE_SLACK = timedelta(seconds=5)
"""Less than a worker waits longer (`Timing.timeout_margin`): who asks says best what was late."""


@dataclass(frozen=True)
class _Run:
    """What is to be carried out, and with what; ``given`` by a worker, if one started it."""

    flow_run: FlowRun
    given: Handover | None
    kind: str
    parameters: dict[str, Any]
    refused: str
    gate: checks.Gate
    prepare: Prepare
    reconciler: Reconciler
    clock: Clock

    @property
    def id(self) -> str:
        return str(self.flow_run.id)

    @property
    def is_direct(self) -> bool:
        """Whether it was called in a script, of no deployment."""
        return self.flow_run.deployment_id is None


async def carry_out(
    kind: str,
    parameters: dict[str, Any],
    prepare: Prepare,
    reconciler: Reconciler,
    *,
    gate: checks.Gate = checks.of_job,
    clock: Clock = SYSTEM,
) -> State[Any]:
    """Carry out the flow run that this is called in; returns the state for the flow to return.

    ``parameters`` are the flow's, as JSON. What is wrong with those of a direct call is raised as
    `InvalidInput`; a due time acts with the job's own, and any other run ends as failed, in the
    ledger too. The state's data is the run as the flow's result. Leaves with Prefect's `Abort` when
    the run has to wait.
    """
    flow_run, refused = occurrence.this_flow_run(), ""
    given = handover.of(str(flow_run.id))
    try:
        parameters = dict(normal_parameters(kind, parameters))
    except InvalidInput as error:
        if flow_run.deployment_id is None:
            raise
        refused = str(error)
    run = _Run(flow_run, given, kind, parameters, refused, gate, prepare, reconciler, clock)
    if run.is_direct:  # there may be no other process that knows of listeners
        registry.look()
    try:
        with handover.ends_softly() if given is not None else nullcontext():
            state = await _carried_out(run)
    except attempt.STOPPED as error:
        if given is None:
            raise
        # Not a crash that Prefect should tell of: the worker knows why, and says it on both sides.
        raise Abort(f"ended by its worker: {error!r}") from None
    if not run.is_direct and state.name in _NEVER_BEGAN:
        await states.end_as(run.id, state)
    return state


async def _carried_out(run: _Run) -> State[Any]:
    given, clock = run.given, run.clock
    async with AsyncExitStack() as stack:
        outcome: Outcome | Again | None = None
        while not isinstance(outcome, Outcome):
            try:
                if outcome is None:
                    ledger = await stack.enter_async_context(Ledger(settings.load().ledger_address))
                begun = await _begun(ledger, run)
            except (*AWAY, LedgerNewer) as error:
                if run.is_direct:
                    raise
                # No ledger, no effect (promise.md 7).
                await set_back(run.id, clock.now() + NO_LEDGER_WAIT, str(error))
            if isinstance(begun, Ended):
                return _not_carried_out(begun, run)
            granted, number, act = begun
            try:
                outcome = await attempt.carry(ledger, granted, number, act, clock, given=given)
            except Unwritten as error:
                log.error("%s", error, extra={"action": "outcome_unwritten"})
                return _unwritten(granted, run, error)
            except (lease.LeaseLost, FenceRefused, IllegalTransition) as error:
                return await _decided_elsewhere(ledger, granted, run, error)
            if isinstance(outcome, Again) and given is not None:
                given.tell(waiting=outcome.until)
                if outcome.until - clock.now() <= PATIENCE:
                    await clock.wait_until(outcome.until)
        outcome = await _summed_up(ledger, granted, outcome, number)
        if given is not None:
            given.tell(ended=outcome.status)
        told = await delivery.at_once(ledger, granted.run_id, alone=run.is_direct)
    await artifact.publish(granted, outcome, number, told)
    if granted.job is not None:
        await _push(run.reconciler, granted.job.id)
    return _state(granted.run_id, outcome, run)


async def _begun(ledger: Ledger, run: _Run) -> tuple[Granted, int, Act] | Ended:
    """Claim, prepare, and write `running`: what comes back has begun its attempt of that number."""
    flow_run, given = run.flow_run, run.given
    if given is not None:
        with suppress(FenceRefused):  # taken back meanwhile, or this is a later attempt: claim
            granted = await claims.granted(ledger, given.run_id, given.fence)
            begun = await _prepared(ledger, run, granted)
            if begun is not None:
                return begun
    deployment_id = str(flow_run.deployment_id) if flow_run.deployment_id else None
    if occurrence.belongs_elsewhere(flow_run, ledger.id):
        why = f"it is of another ledger than this worker's, {ledger.id}: check its DAYBOOK_HOME"
        await set_back(run.id, run.clock.now() + NO_LEDGER_WAIT, why)
    offer = await occurrence.offer(
        ledger,
        flow_run,
        run.parameters,
        run.reconciler,
        kind=run.kind,
        holder=given.holder if given else occurrence.holder(),
        starts=flow_run.run_count,
        refused=run.refused,
        # A direct call is nobody's scheduled work: it counts, and does not wait.
        most=settings.load().max_concurrent if deployment_id else None,
    )
    while True:
        answer = await gate.enter(
            ledger,
            offer,
            run.reconciler,
            run.clock,
            deployment_id=deployment_id,
            made_by=str(flow_run.created_by.id) if flow_run.created_by else None,
            patience=timedelta(0) if given else PATIENCE,
        )
        if isinstance(answer, Ended):
            if offer.job_id is not None and answer.run_id is not None:
                await _push(run.reconciler, offer.job_id)
            return answer
        if given is not None:
            given.tell(claimed=answer.fence)
        begun = await _prepared(ledger, run, answer)
        if begun is not None:
            return begun


async def _prepared(
    ledger: Ledger, run: _Run, granted: Granted
) -> tuple[Granted, int, Act] | Ended | None:
    """Check, prepare and begin a claim; None when it was lost before that, and is claimed again."""
    naming = asyncio.create_task(_name(run, granted))  # meanwhile: nothing waits for it
    checked, prepared = checks.UNASKED, granted
    act: Act | None = None
    outcome = None
    try:
        if not granted.attempts:
            checked = await _checked(ledger, run, granted)
        if checked.opens:
            prepared = checked.charged(granted)
            act = await run.prepare(prepared)
        else:
            outcome = Outcome(Status.SKIPPED, checked.reason, usage=checked.usage)
    except AWAY as error:
        until = run.clock.now() + NO_LEDGER_WAIT
        await claims.postpone(ledger, granted.run_id, granted.fence, until, str(error))
        raise
    except (lease.LeaseLost, FenceRefused) as error:
        log.warning("%s", error, extra={"action": "fence_refused"})
        return None
    except Exception as error:
        outcome = _why_not(granted, error, checked)
    finally:
        await naming
    if act is None:
        assert outcome is not None
        return await _not_begun(ledger, granted, run, outcome)
    try:
        number = await claims.begin(ledger, granted.run_id, granted.fence, usage=checked.usage)
    except BaseException as error:
        await attempt.give_up(act)
        if not isinstance(error, FenceRefused):
            raise
        # The claim was lost before the effect, so whoever claims next may have it.
        log.warning("%s", error, extra={"action": "fence_refused"})
        return None
    if run.given is not None:
        run.given.tell(running=number)
    return prepared, number, act


async def _checked(ledger: Ledger, run: _Run, granted: Granted) -> checks.Verdict:
    """What the run's gate says; meanwhile the claim is kept, and the worker knows since when."""
    told = policies.of_run(granted.parameters)
    if run.gate is checks.of_job and not told.check:
        return checks.UNASKED
    if run.given is not None:
        run.given.tell(checking=granted.fence)
        verdict = await _in_time(run, granted, told.timeout)
        run.given.tell(claimed=granted.fence)  # what follows only prepares, and may wait
        return verdict
    try:
        every = TIMING.run_lease_renewal.total_seconds()
        async with lease.kept(ledger.address, granted, every):
            return await _in_time(run, granted, told.timeout)
    except attempt.STOPPED:
        if run.is_direct:  # nobody would ever claim it again
            stopped = Outcome(Status.CANCELLED, "stopped before it began")
            settling = claims.settle(ledger, granted.run_id, granted.fence, stopped)
            await to_its_end(asyncio.create_task(settling))
        raise


async def _in_time(run: _Run, granted: Granted, timeout: timedelta) -> checks.Verdict:
    """All that a gate asks has the time of one attempt, and a moment for what ends in its time."""
    limit = asyncio.timeout((timeout + GATE_SLACK).total_seconds())
    try:
        async with limit:
            return await run.gate(granted)
    except TimeoutError:
        if not limit.expired():
            raise
        name = "check" if run.gate is checks.of_job else run.kind
        raise checks.CheckFailed(f"{name}: no answer within {to_text(timeout)}") from None


async def _name(run: _Run, granted: Granted) -> None:
    if granted.job is None:
        name = run_names.of_call(run.kind, granted.due, settings.load().timezone)
    elif granted.trigger == "retry":
        return  # it keeps the name of the run that it repeats
    else:
        name = run_names.of_due(granted.job, granted.due)
    await run_names.give_own(run.flow_run, name)


def _why_not(granted: Granted, error: Exception, checked: checks.Verdict) -> Outcome:
    """Nothing was begun, and trying again would not help: an agent that is not there, say."""
    if isinstance(error, DaybookError):
        told = str(error)
    else:
        log.exception("run %s failed", granted.run_id, extra={"action": "run_failed"})
        told = f"{type(error).__name__}: {error}"
    took = error.usage if isinstance(error, checks.CheckFailed) else checked.usage
    return Outcome(Status.FAILED, error=told, usage=took)


async def _not_begun(ledger: Ledger, granted: Granted, run: _Run, outcome: Outcome) -> Ended:
    """Settle a run before it has begun: its gate stayed closed, or it cannot begin."""
    await claims.settle(ledger, granted.run_id, granted.fence, outcome)
    if run.given is not None:
        run.given.tell(ended=outcome.status)
    await delivery.at_once(ledger, granted.run_id, alone=run.is_direct)
    if granted.job is not None:
        await _push(run.reconciler, granted.job.id)
    return Ended(outcome.status, outcome.reason, granted.run_id, run.id, outcome.error)


async def _summed_up(ledger: Ledger, granted: Granted, outcome: Outcome, number: int) -> Outcome:
    """The outcome with what all attempts took, as the ledger has summed it up.

    What others could not write is written on this occasion: their worker may be gone.
    """
    with suppress(LedgerUnreachable):
        await outcome_spool.drain(ledger)
        if number > 1:
            async with ledger.read() as session:
                row = await session.get(RunRow, granted.run_id)
            return replace(outcome, usage=row.usage if row else outcome.usage)
    return outcome


def _unwritten(granted: Granted, run: _Run, error: Unwritten) -> State[Any]:
    """What Prefect is told of an outcome that the ledger does not know yet."""
    if not error.spooled:
        return _state(granted.run_id, Outcome(Status.UNKNOWN, str(error)), run)
    if not run.is_direct:
        # Whoever drains the spool tells Prefect. An end that it shows before the ledger knows of
        # it would be taken for the end of a process that settled nothing.
        raise Abort(str(error))
    return _state(granted.run_id, error.outcome, run)


async def _decided_elsewhere(
    ledger: Ledger, granted: Granted, run: _Run, error: DaybookError
) -> State[Any]:
    """End as the ledger says, where another has decided; what this attempt knew is kept there."""
    log.warning("%s", error, extra={"action": "decided_elsewhere"})
    async with ledger.read() as session:
        row = await session.get(RunRow, granted.run_id)
    assert row is not None
    if row.state in TERMINAL:
        known = Outcome(row.state, row.reason, row.output, row.result, row.error)
        return _state(row.id, known, run)
    if row.flow_run_id == run.id:
        # A later start of this very flow run has it: its state is that one's to write.
        raise Abort(str(error))
    return _state(row.id, Outcome(Status.SKIPPED, f"run {row.id[:8]} was taken over"), run)


def _not_carried_out(answer: Ended, run: _Run) -> State[Any]:
    shown = gate.shown(answer, run.id)
    return _state(shown.run_id, Outcome(shown.status, shown.reason, error=shown.error), run)


async def _push(reconciler: Reconciler, job_id: str) -> None:
    try:
        await reconciler.push(job_id)
    except (DaybookError, httpx.HTTPError) as error:
        # The job stays marked as pending; the next sync brings it.
        log.warning("not synced: %s", error, extra={"action": "push_failed"})


def _state(run_id: str | None, outcome: Outcome, run: _Run) -> State[Any]:
    """The flow's last state. Its data are what a direct call or a parent flow gets.

    Only a state that is completed carries them: of the others Prefect makes an error, from the
    message.
    """
    told = states.message(outcome.status, run_id, outcome.error, outcome.reason)
    result = {
        "run_id": run_id,
        "status": str(outcome.status),
        "reason": outcome.reason,
        "output": outcome.output,
        "result": outcome.result,
        "error": outcome.error,
    }
    if run.is_direct:
        return states.of_direct_call(outcome.status, told, result)
    return state_of(outcome.status, told, result)
