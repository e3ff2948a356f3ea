"""One attempt at the effect, after `begin`: act, and settle for sure.

::

    act ──► settle ──► the outcome
     │         ├ temporary, and attempts are left  waiting for the next one: `Again`
     │         ├ the ledger is not to be reached   kept in the spool, tried again until the lease is
     │         │                                   lost: `Unwritten`
     │         └ another has decided meanwhile     kept as evidence: `FenceRefused` or
     │                                             `IllegalTransition`
     ├ AgentTimeout               timed_out, temporary
     ├ AgentTemporary             failed, temporary
     ├ any other error            failed
     ├ cancelled                  cancelled
     ├ the process is stopped     unknown: the effect may have been had
     └ the lease was refused      the agent is ended, what is known is kept: `LeaseLost`

Nothing here leads back to a second try at the effect but a temporary error that the attempt has
ended with, where the job has retries left (`docs/promise.md` 4, 8). What was begun and cannot be
known is never set back (rule 3).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol, runtime_checkable

import anyio
from prefect.client.orchestration import get_client
from prefect.exceptions import TerminationSignal

from daybook.clock import Clock
from daybook.errors import AgentTemporary, AgentTimeout, DaybookError
from daybook.execution import lease, recording
from daybook.execution.handover import Handover
from daybook.jobs.policy import LONGEST_ASKED, Policy
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Outcome, Status
from daybook.prefect import occurrence, states
from daybook.runs.claim_requests import Granted
from daybook.timing import TIMING

log = logging.getLogger(__name__)

Act = Callable[[], Awaitable["Outcome | Tried"]]
"""The flow's own part: has the effect, and says how it went. Raises what the agents raise.

One that holds something open is `Closing`.
"""


@runtime_checkable
class Closing(Protocol):
    """An act that has to be closed where it is given up."""

    async def close(self) -> None: ...


async def give_up(act: object) -> None:
    """Let go of an act that is not carried out after all."""
    if isinstance(act, Closing):
        await act.close()


Prepare = Callable[[Granted], Awaitable[Act]]
"""What the flow does between claim and begin, without an effect: whom to ask, and what."""


STOPPED = (asyncio.CancelledError, TerminationSignal, KeyboardInterrupt, SystemExit)
"""How the end of this process reaches a flow: Prefect's SIGTERM is raised wherever it strikes."""

_TRIES = 3


@dataclass(frozen=True)
class Again:
    """The attempt ended with a temporary error; the run waits until ``until`` for its next one."""

    until: datetime


@dataclass(frozen=True)
class Tried:
    """How the attempt ended; a temporary error is tried again while retries are left.

    ``asked`` is how long the other side wants to be left alone.
    """

    outcome: Outcome
    temporary: bool = False
    asked: timedelta = timedelta(0)


async def carry(
    ledger: Ledger,
    granted: Granted,
    attempt: int,
    act: Act,
    clock: Clock,
    *,
    given: Handover | None = None,
) -> Outcome | Again:
    """Act and settle; returns the outcome that is in the ledger, or `Again`.

    ``attempt`` is this one's number. With ``given`` a worker renews the lease, and settles if this
    process is stopped: it knows why. Raises as drawn above.
    """
    tried: Tried | None = None
    every = TIMING.run_lease_renewal.total_seconds()
    keeping = nullcontext() if given else lease.kept(ledger.address, granted, every)
    try:
        async with keeping:
            tried = await _try(granted, act)
    except lease.LeaseLost:
        known = (
            tried.outcome
            if tried
            else Outcome(Status.UNKNOWN, "the lease was refused, the agent was ended")
        )
        await _to_the_end(lambda: recording.leave_word(ledger, granted, known))
        raise
    except STOPPED:
        # The agent has been ended by its own adapter; what is left is to say so while there is
        # time. That the process is stopped does not make a known outcome unknown.
        if tried is not None:
            await _write(ledger, granted, attempt, tried, clock)
        elif given is None:
            await _to_the_end(lambda: _interrupted(ledger, granted))
        raise
    return await _write(ledger, granted, attempt, tried, clock)


async def _write(
    ledger: Ledger, granted: Granted, attempt: int, tried: Tried, clock: Clock
) -> Outcome | Again:
    """Settle the run, or only its attempt where another one follows."""
    policy = Policy.model_validate(granted.parameters["policy"])
    again = None
    if tried.temporary and attempt <= policy.retries:
        again = Again(clock.now() + policy.delay(attempt, tried.asked))
    waits = False

    async def write() -> None:
        nonlocal waits
        at = again.until if again is not None else None
        status = await recording.settle(ledger, granted, tried.outcome, clock, at)
        waits = status is Status.WAITING

    await _to_the_end(write)
    # A run that was judged `unknown` meanwhile ends with what this attempt knows.
    return again if again is not None and waits else tried.outcome


async def _try(granted: Granted, act: Act) -> Tried:
    try:
        done = await act()
        return done if isinstance(done, Tried) else Tried(done)
    except AgentTimeout as error:
        said = error.output or None
        timed_out = Outcome(
            Status.TIMED_OUT, str(error), error=str(error), output=said, usage=error.usage
        )
        return Tried(timed_out, temporary=not error.final)
    except AgentTemporary as error:
        asked = seconds_asked(error.retry_after)
        failed = Outcome(Status.FAILED, error=str(error), usage=error.usage)
        return Tried(failed, temporary=not error.final, asked=asked)
    except DaybookError as error:
        said = getattr(error, "output", "") or None
        usage = getattr(error, "usage", None)
        return Tried(Outcome(Status.FAILED, error=str(error), output=said, usage=usage))
    except Exception as error:
        log.exception("run %s failed", granted.run_id, extra={"action": "run_failed"})
        return Tried(Outcome(Status.FAILED, error=f"{type(error).__name__}: {error}"))


def seconds_asked(retry_after: float | None) -> timedelta:
    """What another side asked for, as far as a wait goes at all."""
    return timedelta(seconds=min(retry_after or 0, LONGEST_ASKED.total_seconds()))


async def _interrupted(ledger: Ledger, granted: Granted) -> None:
    run = occurrence.this_flow_run()
    cancelled = False
    try:
        async with get_client() as client:
            state = (await client.read_flow_run(run.id)).state
            cancelled = states.is_being_cancelled(state)
    except Exception as error:
        log.warning("Prefect cannot tell why: %s", error, extra={"action": "interrupt_unexplained"})
    if cancelled:
        outcome = Outcome(Status.CANCELLED, "cancelled")
    else:
        outcome = Outcome(Status.UNKNOWN, "the process was stopped while the agent was at work")
    await recording.leave_word(ledger, granted, outcome)


async def _to_the_end(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Do ``work`` to its end even if this task is stopped; the stop goes on after it.

    A loop that is torn down cancels every task, the one that works as well: then it works again.
    """
    task = asyncio.ensure_future(work())
    try:
        await asyncio.shield(task)
    except STOPPED:
        with anyio.CancelScope(shield=True):  # a cancel scope asks again at every turn of the loop
            for _ in range(_TRIES):
                while not task.done():
                    with suppress(asyncio.CancelledError):
                        await asyncio.wait({task})
                if not task.cancelled():
                    break
                task = asyncio.ensure_future(work())
        if task.done() and not task.cancelled():
            task.exception()  # seen: the stop is what goes on
        raise
