"""Claim of a run's occurrence, with the wait for its due time and the reconciliation of its job.

A flow that gets no fencing token from its worker claims for itself (promise 2). No run begins
before its due time: Prefect starts runs up to half a second early, so this module waits until the
due time.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import timedelta

from prefect.exceptions import Abort

from daybook import settings
from daybook.clock import Clock
from daybook.errors import InvalidInput
from daybook.execution import folders
from daybook.jobs import limits
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Status
from daybook.prefect import client as prefect
from daybook.prefect import reconcile
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

log = logging.getLogger(__name__)

NO_LEDGER_DELAY = timedelta(seconds=30)
"""Delay before the next claim if the ledger or Prefect is unreachable.

See promise 7: without a ledger, a run has no effect.
"""
MAX_IN_PROCESS_WAIT = timedelta(seconds=30)
"""Longest wait inside the process; for a longer wait, the process reschedules the run."""

DECISION_INTERVAL = timedelta(seconds=5)
"""Interval between two claims of a process that waits for a person's decision."""


async def wait_for_claim(
    ledger: Ledger,
    request: ClaimRequest,
    clock: Clock,
    *,
    deployment_id: str | None = None,
    made_by: str | None = None,
    patience: timedelta = MAX_IN_PROCESS_WAIT,
) -> Granted | Finished:
    """Claim the occurrence, after a wait in this process if necessary; return the claim or the end.

    For a wait longer than ``patience``, reschedule the run and raise `Abort`. A direct call, which
    has no ``deployment_id``, waits in this process, however long the wait is. Also raise `Abort` if
    another process executes this flow run. Raise the errors of an unreachable ledger or Prefect.
    ``made_by`` is the id of the Prefect run's creator, which for an auto-scheduled run is its
    schedule.
    """
    while True:
        answer = await decide(ledger, request, deployment_id=deployment_id, made_by=made_by)
        match answer:
            case Granted() | Finished():
                return answer
            case Waiting(until=until) if until - ledger.now() <= patience or deployment_id is None:
                # Wait for a duration, not until an instant, because the ledger's clock may differ.
                pause = until - ledger.now()
                if answer.for_person:
                    pause = min(pause, DECISION_INTERVAL)
                await clock.wait_until(clock.now() + pause)
            case Waiting(until=until, why=why):
                await suspend_flow_run(str(request.flow_run_id), until, why, ledger)
            case HeldElsewhere() if answer.flow_run_id == request.flow_run_id:
                # Another process executes this flow run and sets its state.
                raise Abort(f"run {answer.run_id} is held by {answer.holder}")
            case HeldElsewhere():
                return end_of_duplicate(answer)


def end_to_show(answer: Finished, flow_run_id: str) -> Finished:
    """Return the end to show for a Prefect run whose occurrence already has an outcome.

    If another Prefect run executed the occurrence, that run shows the outcome, and this run ends as
    skipped. Every Prefect run of a skipped or missed occurrence shows that outcome.
    """
    own = answer.flow_run_id == flow_run_id or answer.status in {Status.SKIPPED, Status.MISSED}
    if own:
        return answer
    return Finished(Status.SKIPPED, f"already recorded as {answer.status}", answer.run_id)


def end_of_duplicate(answer: HeldElsewhere) -> Finished:
    """Return the end of a Prefect run whose occurrence another Prefect run executes."""
    return Finished(
        Status.SKIPPED, f"run {answer.run_id[:8]} is already in progress", answer.run_id
    )


async def decide(
    ledger: Ledger,
    request: ClaimRequest,
    *,
    deployment_id: str | None = None,
    made_by: str | None = None,
) -> Granted | Waiting | Finished | HeldElsewhere:
    """Claim the occurrence; if it is not due by the ledger's data, reconcile the job and try again.

    If the run has to wait until other runs are cancelled, request their cancellation in Prefect.
    While the settings are invalid, a run waits; a direct call raises `InvalidInput`.
    ``deployment_id`` and ``made_by`` are as in `wait_for_claim`. Also raise the errors of an
    unreachable ledger or Prefect.
    """
    try:
        loaded = settings.load()
        request = replace(request, rules=limits.load_rules(loaded))
    except InvalidInput as error:
        if deployment_id is None:
            raise
        log.warning("a run waits: %s", error, extra={"action": "waits_for_settings"})
        request = replace(request, invalid_settings=str(error))
    else:
        if request.most is not None:
            request = replace(
                request, classes=loaded.max_of_class, max_per_agent=loaded.max_per_agent
            )
    request = replace(request, folders=await folders.of_request(ledger, request))
    while True:
        answer = await claim(ledger, request)
        if isinstance(answer, Waiting) and answer.cancel:
            async with prefect.limited():
                await request_cancellation(answer.cancel, answer.why)
        if not isinstance(answer, NeedsReconcile):
            return answer
        async with prefect.limited():
            prefect_schedules = await reconcile.compare(answer.job_id, str(deployment_id))
        request = replace(request, compared=True)
        if made_by in prefect_schedules:
            # The job cannot express this schedule, so its runs are no due times of the job.
            request = replace(request, occurrence=flow_key(str(request.flow_run_id)))
