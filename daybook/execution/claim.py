"""Claim of a run by its own process: waits for the due time, reconciles once, reschedules.

A flow that gets no fencing token from its worker claims for itself (promise.md 2). No run begins
before its due time: Prefect starts runs up to half a second early, and this module waits that out.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Protocol

from prefect.exceptions import Abort

from daybook import settings
from daybook.clock import Clock
from daybook.jobs import limits
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Status
from daybook.prefect.occurrence import Recogniser
from daybook.prefect.states import request_cancellation, suspend_flow_run
from daybook.runs.claim_requests import (
    ClaimRequest,
    Finished,
    Granted,
    HeldElsewhere,
    NeedsReconcile,
    Waiting,
    flow_key,
)
from daybook.runs.claims import claim

NO_LEDGER_DELAY = timedelta(seconds=30)
"""Delay before the next claim if the ledger is unreachable (promise.md 7: then no effect)."""
MAX_IN_PROCESS_WAIT = timedelta(seconds=30)
"""The longest wait inside the process; for a longer one the run is rescheduled."""


class Reconciler(Recogniser, Protocol):
    """Reconciliation of one job, passed in by the flow because this package cannot import it."""

    async def compare(self, job_id: str, deployment_id: str) -> frozenset[str]:
        """Import the edits of this one job from Prefect into the ledger.

        Return the ids of the schedules that stay Prefect's own.
        """
        ...

    async def push(self, job_id: str) -> None:
        """Apply the changes of this one job in the ledger to Prefect."""
        ...


async def wait_for_claim(
    ledger: Ledger,
    offer: ClaimRequest,
    reconciler: Reconciler,
    clock: Clock,
    *,
    deployment_id: str | None = None,
    made_by: str | None = None,
    patience: timedelta = MAX_IN_PROCESS_WAIT,
) -> Granted | Finished:
    """Claim the occurrence. A run that has to wait for long is rescheduled, with `Abort`.

    ``made_by`` is the id of the creator of the Prefect run: for an auto-scheduled run, its
    schedule. ``patience`` is the longest wait for which this process is kept.
    """
    while True:
        answer = await decide(
            ledger, offer, reconciler, deployment_id=deployment_id, made_by=made_by
        )
        match answer:
            case Granted() | Finished():
                return answer
            case Waiting(until=until) if until - ledger.now() <= patience or deployment_id is None:
                # Wait for a duration, not until an instant: the ledger's clock may be behind.
                await clock.wait_until(clock.now() + (until - ledger.now()))
            case Waiting(until=until, why=why):
                await suspend_flow_run(str(offer.flow_run_id), until, why, ledger)
            case HeldElsewhere() if answer.flow_run_id == offer.flow_run_id:
                # Another process carries this very flow run and sets its state.
                raise Abort(f"run {answer.run_id} is held by {answer.holder}")
            case HeldElsewhere():
                return end_of_duplicate(answer)


def end_to_show(answer: Finished, flow_run_id: str) -> Finished:
    """Return the end of the Prefect run that requested an occurrence which has its outcome.

    A run that another Prefect run carried is shown there, so this one ends as skipped.
    """
    own = answer.flow_run_id == flow_run_id or answer.status in {Status.SKIPPED, Status.MISSED}
    if own:
        return answer
    return Finished(Status.SKIPPED, f"already recorded as {answer.status}", answer.run_id)


def end_of_duplicate(answer: HeldElsewhere) -> Finished:
    """Return the end of a Prefect run whose occurrence another Prefect run carries."""
    return Finished(Status.SKIPPED, f"run {answer.run_id[:8]} already has it", answer.run_id)


async def decide(
    ledger: Ledger,
    offer: ClaimRequest,
    reconciler: Reconciler,
    *,
    deployment_id: str | None = None,
    made_by: str | None = None,
) -> Granted | Waiting | Finished | HeldElsewhere:
    """Claim; if the ledger does not know the instant, reconcile the job and claim again."""
    loaded = settings.load()
    offer = replace(offer, rules=limits.load_rules(loaded))
    if offer.most is not None:
        offer = replace(offer, classes=loaded.max_of_class)
    while True:
        answer = await claim(ledger, offer)
        if isinstance(answer, Waiting) and answer.cancel:
            await request_cancellation(answer.cancel, answer.why)
        if not isinstance(answer, NeedsReconcile):
            return answer
        prefect_schedules = await reconciler.compare(answer.job_id, str(deployment_id))
        offer = replace(offer, compared=True)
        if made_by in prefect_schedules:
            # A schedule that a job cannot express: its runs are not due times of the job.
            offer = replace(offer, occurrence=flow_key(str(offer.flow_run_id)))
