"""What is written when a run's process is gone: in the ledger first, then in Prefect.

A process that settled its run has done both; one that could only leave its outcome in the spool has
settled too. Whatever else it was, the run's state and the cause of the end decide
(`docs/promise.md` 3, 8, 13)::

    settled                         Prefect is brought to that state if the process did not
    waiting                         cancelled, or it waits on; its Prefect run is scheduled again
    claimed, running ─ CANCEL       cancelled
                     ─ TIMEOUT      waiting while attempts are left (webhooks, tools, and agents
                                    that have called a tool which changes something, only where
                                    they are idempotent), else timed_out
                     ─ DEADLINE     timed_out
                     ─ LOST         somebody else's
                     ─ anything     claimed: waiting again; running: unknown, or again by
                                    `on_lost`
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import httpx
from prefect.client.orchestration import PrefectClient

from daybook.errors import FenceRefused, IllegalTransition, LedgerUnreachable
from daybook.execution import outcome_spool
from daybook.jobs.actions import TALKING
from daybook.ledger.engine import Ledger
from daybook.ledger.states import HELD, TERMINAL, Outcome, Status
from daybook.ledger.tables import RunRow
from daybook.prefect import ended_runs, scheduled_runs, state_mirror
from daybook.runs import claims
from daybook.schedules.durations import to_text
from daybook.timing import TIMING
from daybook.worker.supervision import Cause, Watched, words_of_the_end

log = logging.getLogger(__name__)

LOOK_AGAIN = 1.0
TOLD_WITHIN = 10.0
"""Seconds: Prefect's client tries again for more than a minute, while the slot is taken and a
worker that is stopped cannot end."""
NOT_TOLD = (httpx.HTTPError, TimeoutError)


async def settle(ledger: Ledger, client: PrefectClient, watched: Watched) -> None:
    """Bring ledger and Prefect to what the end of ``watched`` means, and tell why in its log."""
    row = await _patiently(ledger, lambda: _in_the_ledger(ledger, client, watched))
    if row is None:
        return  # not to be reached for longer than the lease: whoever judges that has it
    try:
        async with asyncio.timeout(TOLD_WITHIN):
            await _tell_prefect(ledger, client, watched, row)
    except NOT_TOLD as error:
        # The keeper's passes do it later.
        log.warning("Prefect is told later: %r", error, extra={"action": "tell_failed"})


async def _tell_prefect(
    ledger: Ledger, client: PrefectClient, watched: Watched, row: RunRow
) -> None:
    if row.state is Status.WAITING:
        if watched.exit_code != 0 or watched.cause is not None:
            await scheduled_runs.one(ledger, client, row)
    elif row.state in TERMINAL and (watched.exit_code != 0 or not watched.facts.ended):
        await state_mirror.now(ledger, client, row.id)


async def _patiently(ledger: Ledger, work: Callable[[], Awaitable[RunRow | None]]) -> RunRow | None:
    end = ledger.now() + 2 * TIMING.run_lease
    while True:
        try:
            return await work()
        except LedgerUnreachable as error:
            if ledger.now() >= end:
                log.error("not written down: %s", error, extra={"action": "settle_unreachable"})
                return None
            log.warning("written down later: %s", error, extra={"action": "settle_unreachable"})
        await asyncio.sleep(LOOK_AGAIN)


async def _in_the_ledger(ledger: Ledger, client: PrefectClient, watched: Watched) -> RunRow | None:
    await outcome_spool.drain(ledger, watched.run_id)  # what it knew and could not write
    row = await _row(ledger, watched)
    if row.state is Status.WAITING and watched.cause is Cause.CANCEL:
        return await claims.cancel(ledger, row.id, str(Cause.CANCEL))
    if row.state not in HELD or not _its_own(row, watched) or watched.cause is Cause.LOST:
        return row
    try:
        await _end(ledger, client, watched, row)
    except (FenceRefused, IllegalTransition) as error:  # decided meanwhile
        log.warning("%s", error, extra={"action": "outcome_refused"})
    return await _row(ledger, watched)


def _its_own(row: RunRow, watched: Watched) -> bool:
    """Whether the claim is of this process. Not by the fence: the process may have claimed once
    more without having told of it. And not by the holder alone: this worker may have the run again,
    in another Prefect run.
    """
    return (row.holder, row.flow_run_id) == (watched.holder, watched.flow_run_id)


async def _end(ledger: Ledger, client: PrefectClient, watched: Watched, row: RunRow) -> None:
    run_id, fence, policy, took = row.id, row.fence, watched.policy, watched.facts.took
    match watched.cause:
        case Cause.CANCEL:
            outcome = Outcome(Status.CANCELLED, str(Cause.CANCEL), usage=took)
        case Cause.DEADLINE:
            words = f"the deadline of {to_text(policy.deadline)} passed" if policy.deadline else ""
            outcome = Outcome(Status.TIMED_OUT, words, error=words, usage=took)
        case Cause.TIMEOUT:
            words = f"no end within {to_text(policy.timeout)}; its processes were ended"
            outcome = Outcome(Status.TIMED_OUT, words, error=_with_tail(words, watched), usage=took)
            # What was called may have had its effect: only an agent that called nothing of the
            # kind is asked again unbidden.
            talked = row.kind in TALKING and not watched.facts.changed
            again = talked or policy.idempotent
            if again and row.state is Status.RUNNING and row.attempts <= policy.retries:
                until = ledger.now() + policy.delay(row.attempts)
                await claims.retry(ledger, run_id, fence, outcome, until)
                return
        case _:
            if watched.cause is None and await _prefect_tells(ledger, client, watched):
                return
            words = words_of_the_end(watched)
            error = _with_tail(words, watched)
            await claims.died(ledger, run_id, fence, words, error=error, usage=took)
            return
    await claims.settle(ledger, run_id, fence, outcome)


async def _prefect_tells(ledger: Ledger, client: PrefectClient, watched: Watched) -> bool:
    """Whether Prefect ended the run before our flow was entered: parameters that do not fit."""
    if watched.exit_code != 0 or watched.facts.attempt:
        return False
    try:
        async with asyncio.timeout(TOLD_WITHIN):
            return await ended_runs.one(ledger, client, watched.flow_run_id, gone=True) is not None
    except NOT_TOLD as error:
        log.warning("Prefect does not tell: %r", error, extra={"action": "ask_failed"})
        return False


def _with_tail(words: str, watched: Watched) -> str:
    tail = watched.tail()
    return f"{words}\n{tail}" if tail else words


async def _row(ledger: Ledger, watched: Watched) -> RunRow:
    async with ledger.read() as session:
        row = await session.get(RunRow, watched.run_id)
    assert row is not None
    return row
