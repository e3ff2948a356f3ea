"""Handling of the exit of a run's process: the outcome is recorded in the ledger, then in Prefect.

A process that recorded its outcome itself has usually done both. If the process could only spool
the outcome, this module records it first. If Prefect ended the run before the flow started, this
module records that end. Otherwise the run's state and the cause of the stop decide. A run that
loses its lease waits again if the effect has not started, and otherwise is `unknown` (promise 3).
Promise 8 has the rules for timeouts, and promise 13 has the states in Prefect::

    terminal                        set that state in Prefect if the process did not
    waiting          ─ CANCEL       cancelled
                     ─ other        still waiting; its Prefect run is rescheduled if the process
                                    was stopped or failed
    claimed, running ─ CANCEL       cancelled
                     ─ TIMEOUT      claimed: timed_out; running: waiting while attempts are left
                                    (webhooks, tools, and agents that are calling a tool which
                                    changes something: only if the job is idempotent), else
                                    timed_out
                     ─ DEADLINE     timed_out
                     ─ LOST         left to the new holder, or to the lease reaper
                     ─ other        claimed: waiting again; running: unknown, or waiting again if
                                    `on_lost` says so

If a newer program has migrated the ledger, the outcomes of CANCEL, TIMEOUT and DEADLINE are spooled
for a process of the newer version. Its lease reaper decides the runs of the other causes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import httpx
from prefect.client.orchestration import PrefectClient

from daybook.errors import FenceRefused, IllegalTransition, LedgerNewer, LedgerUnreachable
from daybook.execution import delivery, outcome_spool
from daybook.execution.outcome_spool import SpooledOutcome
from daybook.ledger import job_kinds
from daybook.ledger.engine import Ledger
from daybook.ledger.states import HELD, TERMINAL, Outcome, Status
from daybook.ledger.tables import RunRow
from daybook.prefect import ended_runs, scheduled_runs, state_mirror
from daybook.runs import claims
from daybook.schedules.durations import to_text
from daybook.timing import TIMING
from daybook.worker.supervision import StopCause, SupervisedRun, describe_exit

log = logging.getLogger(__name__)

RETRY_INTERVAL_SECONDS = 1.0
PREFECT_TIMEOUT_SECONDS = 10.0
"""Timeout for the sum of all requests to Prefect that one step of the handling makes.

Prefect's client retries for more than a minute, which would occupy the slot and delay the end of a
worker that is being stopped.
"""
PREFECT_ERRORS = (httpx.HTTPError, TimeoutError)

_STOPPED_BY_WORKER = (StopCause.CANCEL, StopCause.TIMEOUT, StopCause.DEADLINE)
"""Causes for which the worker decides the outcome, and so creates the run's artifact."""


async def handle_exit(ledger: Ledger, client: PrefectClient, watched: SupervisedRun) -> None:
    """Record the outcome that follows from the exit of ``watched``, in the ledger and in Prefect.

    If the ledger stays unreachable for the duration of two leases, or Prefect for
    `PREFECT_TIMEOUT_SECONDS`, log the error and return; the keeper does the rest later.
    """
    try:
        row = await _retry_until_reachable(ledger, lambda: _record(ledger, client, watched))
    except LedgerNewer as error:
        log.error("cannot record the outcome: %s", error, extra={"action": "outcome_not_recorded"})
        _spool(ledger, watched)
        return
    if row is None:
        return  # the ledger was unreachable for so long that the run counts as lost
    try:
        async with asyncio.timeout(PREFECT_TIMEOUT_SECONDS):
            await _update_prefect(ledger, client, watched, row)
    except PREFECT_ERRORS as error:
        # The keeper sets the state in Prefect later.
        log.warning(
            "cannot update Prefect, the keeper will: %r",
            error,
            extra={"action": "prefect_update_failed"},
        )


async def _update_prefect(
    ledger: Ledger, client: PrefectClient, watched: SupervisedRun, row: RunRow
) -> None:
    if row.state is Status.WAITING:
        if watched.exit_code != 0 or watched.cause is not None:
            await scheduled_runs.ensure_row(ledger, client, row)
    elif row.state in TERMINAL and (watched.exit_code != 0 or not watched.facts.ended):
        await state_mirror.mirror_run(ledger, client, row.id)
        is_own = row.flow_run_id == watched.flow_run_id
        if is_own and watched.cause in _STOPPED_BY_WORKER and not watched.facts.ended:
            await delivery.publish_artifact(ledger, client, row.id)


async def _retry_until_reachable(
    ledger: Ledger, work: Callable[[], Awaitable[RunRow | None]]
) -> RunRow | None:
    end = ledger.now() + 2 * TIMING.run_lease
    while True:
        try:
            return await work()
        except LedgerNewer:
            raise
        except LedgerUnreachable as error:
            if ledger.now() >= end:
                log.error(
                    "cannot record the outcome: %s", error, extra={"action": "outcome_not_recorded"}
                )
                return None
            log.warning(
                "cannot record the outcome, will retry: %s",
                error,
                extra={"action": "outcome_not_recorded"},
            )
        await asyncio.sleep(RETRY_INTERVAL_SECONDS)


async def _record(ledger: Ledger, client: PrefectClient, watched: SupervisedRun) -> RunRow | None:
    await outcome_spool.drain(ledger, watched.run_id)  # if the process could only spool it
    row = await _read_row(ledger, watched)
    if row.state is Status.WAITING and watched.cause is StopCause.CANCEL:
        return await claims.cancel(ledger, row.id, str(StopCause.CANCEL))
    if row.state not in HELD or not _holds_claim(row, watched) or watched.cause is StopCause.LOST:
        return row
    try:
        await _record_end(ledger, client, watched, row)
    except (FenceRefused, IllegalTransition) as error:  # the outcome was decided meanwhile
        log.warning("%s", error, extra={"action": "outcome_refused"})
    return await _read_row(ledger, watched)


def _holds_claim(row: RunRow, watched: SupervisedRun) -> bool:
    """Return whether the supervised process still has the claim.

    The fencing token alone does not show it: the process may have claimed the run again without a
    report. Nor does the holder: this worker may hold the run in another Prefect run.
    """
    return (row.holder, row.flow_run_id) == (watched.holder, watched.flow_run_id)


async def _record_end(
    ledger: Ledger, client: PrefectClient, watched: SupervisedRun, row: RunRow
) -> None:
    run_id, fence = row.id, row.fence
    if watched.cause not in _STOPPED_BY_WORKER:
        if watched.cause is None and await _ended_by_prefect(ledger, client, watched):
            return
        reason, usage = describe_exit(watched), watched.facts.took
        error = _with_tail(reason, watched)
        await claims.holder_died(ledger, run_id, fence, reason, error=error, usage=usage)
        return
    outcome = _decided(watched)
    is_running = row.state is Status.RUNNING
    if is_running and _may_retry(watched, row.attempts, asks_agent=row.asks_agent):
        until = ledger.now() + watched.policy.delay(row.attempts)
        await claims.retry(ledger, run_id, fence, outcome, until)
        return
    await claims.finish(ledger, run_id, fence, outcome)


def _decided(watched: SupervisedRun) -> Outcome:
    """Return the outcome of a run that the worker has stopped for one of `_STOPPED_BY_WORKER`."""
    policy, usage = watched.policy, watched.facts.took
    if watched.cause is StopCause.CANCEL:
        return Outcome(Status.CANCELLED, str(StopCause.CANCEL), usage=usage)
    if watched.cause is StopCause.DEADLINE:
        reason = f"the deadline of {to_text(policy.deadline)} passed" if policy.deadline else ""
        return Outcome(Status.TIMED_OUT, reason, error=reason, usage=usage)
    reason = f"it did not end within {to_text(policy.timeout)}; the worker ended its processes"
    return Outcome(Status.TIMED_OUT, reason, error=_with_tail(reason, watched), usage=usage)


def _may_retry(watched: SupervisedRun, attempts: int, *, asks_agent: bool) -> bool:
    """Return whether another attempt follows the attempt that the worker has stopped.

    The stopped call may have had its effect. So without `idempotent`, retry only an agent that was
    not calling a tool which changes something.
    """
    repeatable_agent = asks_agent and not watched.facts.changed
    may_repeat = repeatable_agent or watched.policy.idempotent
    return watched.cause is StopCause.TIMEOUT and may_repeat and attempts <= watched.policy.retries


def _spool(ledger: Ledger, watched: SupervisedRun) -> None:
    """Store the outcome that this worker has decided, unless the process recorded or stored one."""
    is_known = watched.facts.ended or outcome_spool.pending_files(watched.run_id)
    if watched.cause not in _STOPPED_BY_WORKER or is_known:
        return
    attempt, until = watched.facts.attempt, None
    asks_agent = job_kinds.asks_agent(watched.kind)
    if attempt and _may_retry(watched, attempt, asks_agent=asks_agent):
        until = ledger.now() + watched.policy.delay(attempt)
    outcome = _decided(watched)
    try:
        outcome_spool.put(SpooledOutcome(ledger.id, watched.run_id, watched.fence, outcome, until))
    except OSError as error:
        log.error("cannot store the outcome: %s", error, extra={"action": "spool_failed"})


async def _ended_by_prefect(ledger: Ledger, client: PrefectClient, watched: SupervisedRun) -> bool:
    """Record the run's end if Prefect ended the run before the flow started.

    Return whether an end was recorded. For example, Prefect ends a run with invalid parameters in
    this way.
    """
    if watched.exit_code != 0 or watched.facts.attempt:
        return False
    try:
        async with asyncio.timeout(PREFECT_TIMEOUT_SECONDS):
            return (
                await ended_runs.record_end(
                    ledger, client, watched.flow_run_id, has_no_process=True
                )
                is not None
            )
    except PREFECT_ERRORS as error:
        log.warning(
            "cannot read the run from Prefect: %r", error, extra={"action": "prefect_read_failed"}
        )
        return False


def _with_tail(reason: str, watched: SupervisedRun) -> str:
    tail = watched.tail()
    return f"{reason}\n{tail}" if tail else reason


async def _read_row(ledger: Ledger, watched: SupervisedRun) -> RunRow:
    async with ledger.read() as session:
        row = await session.get(RunRow, watched.run_id)
    assert row is not None
    return row
