"""What the answer to a claim means for its caller, as data: `effects` is a pure function.

::

    the answer                  for a worker                 for the run's own flow
    ──────────────────────────  ───────────────────────────  ───────────────────────────────────
    granted                     `Start`                      `Start`
    waiting                     `Suspend`                    `WaitHere`; beyond its patience
                                                             `Suspend`
      names runs to cancel      first `RequestCancellation`  first `RequestCancellation`
      a slot is free            last `WakeEarlier`
    finished                    `ShowEnd`                    `ShowEnd`
      a user may have retried   first `ReadRetries`
    held, another Prefect run   `ShowEnd`                    `ShowEnd`
    held, this Prefect run      nothing                      `LeaveToHolder`
    needs reconcile             `Reconcile`                  `Reconcile`

`daybook.execution.claim.decide` performs `RequestCancellation` and `Reconcile`, which mean the same
for every caller. Each caller performs the rest: `daybook.worker.dispatcher` for a worker,
`claim.wait_for_claim` for a flow.

The claim has written its answer to the ledger before, and each effect can be repeated. So if a
process dies between two effects, nothing is lost: the Prefect run is still there, or the keeper
creates it again (promise 11), and the next claim returns the effects that are still right. The
lease of a granted run expires, and the keeper wakes the earlier runs (promise 12).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from daybook.ledger.states import Status
from daybook.runs.claim_requests import (
    ClaimResult,
    Finished,
    Granted,
    HeldElsewhere,
    NeedsReconcile,
    Waiting,
)

DECISION_INTERVAL = timedelta(seconds=5)
"""Interval between two claims of a process that waits for a person's decision."""


@dataclass(frozen=True)
class Worker:
    """A worker that claims a Prefect run before its start.

    ``has_start_time`` is True if Prefect has a start time for the run, which Prefect also sets at
    each end. ``has_retries`` is True if the claim request contains the run's Retries.
    """

    flow_run_id: str
    has_start_time: bool = False
    has_retries: bool = False


@dataclass(frozen=True)
class Flow:
    """A flow that claims its own run, and waits in its process for at most ``patience``."""

    flow_run_id: str | None
    patience: timedelta


Caller = Worker | Flow


@dataclass(frozen=True)
class Start:
    """Start the process of the claimed run; in the process itself, begin."""

    granted: Granted


@dataclass(frozen=True)
class WaitHere:
    """Wait in this process for ``duration``, then claim again."""

    duration: timedelta


@dataclass(frozen=True)
class Suspend:
    """Reschedule the run in Prefect, which needs no process until then."""

    waiting: Waiting


@dataclass(frozen=True)
class WakeEarlier:
    """Wake the runs that were due earlier, because a free slot is reserved for them."""


@dataclass(frozen=True)
class RequestCancellation:
    """Request in Prefect that the runs that this run waits for are cancelled."""

    flow_run_ids: tuple[str, ...]
    why: str


@dataclass(frozen=True)
class ReadRetries:
    """Read the run's Retries from Prefect; if there are any, only claim again, with them."""


@dataclass(frozen=True)
class ShowEnd:
    """Set the Prefect run to the state of ``end``."""

    end: Finished


@dataclass(frozen=True)
class LeaveToHolder:
    """Exit: another process executes this Prefect run and sets its state."""

    why: str


@dataclass(frozen=True)
class Reconcile:
    """Reconcile this job with Prefect, then claim again."""

    job_id: str


Effect = (
    Start
    | WaitHere
    | Suspend
    | WakeEarlier
    | RequestCancellation
    | ReadRetries
    | ShowEnd
    | LeaveToHolder
    | Reconcile
)


def effects(answer: ClaimResult, caller: Caller, now: datetime) -> tuple[Effect, ...]:
    """Return what follows from ``answer``, in order; ``now`` is the ledger's time (UTC)."""
    match answer:
        case Granted():
            return (Start(answer),)
        case Waiting():
            return _effects_of_wait(answer, caller, now)
        case Finished(flow_run_id=carrier):
            is_own = carrier == caller.flow_run_id
            was_own = is_own and not answer.is_new
            first = (ReadRetries(),) if _may_be_retry(caller, was_own=was_own) else ()
            return *first, ShowEnd(_end_to_show(answer, is_own=is_own))
        case HeldElsewhere(run_id, holder, carrier):
            if carrier != caller.flow_run_id:
                why = f"run {run_id[:8]} is already in progress"
                return (ShowEnd(Finished(Status.SKIPPED, why, run_id)),)
            if isinstance(caller, Worker):
                return ()
            return (LeaveToHolder(f"run {run_id} is held by {holder}"),)
        case NeedsReconcile(job_id):
            return (Reconcile(job_id),)


def _effects_of_wait(answer: Waiting, caller: Caller, now: datetime) -> tuple[Effect, ...]:
    first = (RequestCancellation(answer.cancel, answer.why),) if answer.cancel else ()
    if isinstance(caller, Worker):
        return *first, Suspend(answer), *((WakeEarlier(),) if answer.free else ())
    # A duration, not an instant, because the caller's clock may differ from the ledger's.
    duration = answer.until - now
    if duration > caller.patience:
        return *first, Suspend(answer)
    return *first, WaitHere(min(duration, DECISION_INTERVAL) if answer.for_person else duration)


def _may_be_retry(caller: Caller, *, was_own: bool) -> bool:
    """Return whether a user may have chosen Retry, without a sign of it in the claim request.

    A run that has ended but is scheduled was retried, or Prefect does not show the end yet; the
    run's history in Prefect shows which. ``was_own`` is True if the run had this end before.
    """
    if isinstance(caller, Flow) or caller.has_retries:
        return False
    return was_own or caller.has_start_time


def _end_to_show(answer: Finished, *, is_own: bool) -> Finished:
    """Return the end to show for a Prefect run whose occurrence already has an outcome.

    Only the Prefect run that executed the occurrence shows it, and another one is skipped. Every
    Prefect run of a skipped or missed occurrence shows that outcome.
    """
    if is_own or answer.status in {Status.SKIPPED, Status.MISSED}:
        return answer
    return Finished(Status.SKIPPED, f"already recorded as {answer.status}", answer.run_id)
