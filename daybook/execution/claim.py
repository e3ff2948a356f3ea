"""Claim of a run's occurrence, with the wait for its due time and the reconciliation of its job.

A flow that gets no fencing token from its worker claims for itself (promise 2). No run begins
before its due time: Prefect starts runs up to half a second early, so this module waits until the
due time.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from prefect.exceptions import Abort

from daybook import settings
from daybook.clock import Clock
from daybook.errors import InvalidInput
from daybook.execution import folders
from daybook.execution.claim_effects import (
    Caller,
    Effect,
    Flow,
    LeaveToHolder,
    Reconcile,
    RequestCancellation,
    ShowEnd,
    Start,
    Suspend,
    WaitHere,
    effects,
)
from daybook.jobs import limits
from daybook.ledger.engine import Ledger
from daybook.prefect import client as prefect
from daybook.prefect import reconcile
from daybook.prefect.states import request_cancellation, suspend_flow_run
from daybook.runs.claim_requests import ClaimRequest, Finished, Granted, flow_key
from daybook.runs.claims import claim

log = logging.getLogger(__name__)

NO_LEDGER_DELAY = timedelta(seconds=30)
"""Delay before the next claim if the ledger or Prefect is unreachable.

See promise 7: without a ledger, a run has no effect.
"""
MAX_IN_PROCESS_WAIT = timedelta(seconds=30)
"""Longest wait inside the process; for a longer wait, the process reschedules the run."""


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
    flow = Flow(request.flow_run_id, timedelta.max if deployment_id is None else patience)
    while True:
        for effect in await decide(
            ledger, request, flow, deployment_id=deployment_id, made_by=made_by
        ):
            match effect:
                case Start(granted):
                    return granted
                case ShowEnd(end):
                    return end
                case WaitHere(duration):
                    await clock.wait_until(clock.now() + duration)
                case Suspend(waiting):
                    await suspend_flow_run(
                        str(request.flow_run_id), waiting.until, waiting.why, ledger
                    )
                case LeaveToHolder(why):
                    raise Abort(why)


async def decide(
    ledger: Ledger,
    request: ClaimRequest,
    caller: Caller,
    *,
    deployment_id: str | None = None,
    made_by: str | None = None,
) -> Sequence[Effect]:
    """Claim the occurrence; return the effects of the answer that are left to ``caller``.

    If the run is not due by the ledger's data, reconcile the job with Prefect and claim again. If
    the run has to wait until other runs are cancelled, request their cancellation in Prefect.
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
                request,
                classes=loaded.max_of_class,
                max_per_agent=loaded.max_per_agent,
                max_per_label=loaded.max_per_label,
            )
    request = replace(request, folders=await folders.of_request(ledger, request))
    while True:
        match effects(await claim(ledger, request), caller, ledger.now()):
            case (Reconcile(job_id),):
                async with prefect.limited():
                    prefect_schedules = await reconcile.compare(job_id, str(deployment_id))
                request = replace(request, compared=True)
                if made_by in prefect_schedules:
                    # The job cannot express this schedule, so its runs are no due times of the job.
                    request = replace(request, occurrence=flow_key(str(request.flow_run_id)))
            case (RequestCancellation(flow_run_ids, why), *left):
                async with prefect.limited():
                    await request_cancellation(flow_run_ids, why)
                return left
            case left:
                return left
