"""From an offer to a claim: waiting for the due time, comparing once, setting back.

A flow that gets no fence from its worker claims for itself (`docs/promise.md` 2). No run begins
before its due time: Prefect starts runs up to half a second early, and that is waited out here.
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
from daybook.prefect.states import ask_to_end, set_back
from daybook.runs.claim_requests import Compare, Ended, Granted, Offer, Taken, Waiting, flow_key
from daybook.runs.claims import claim

NO_LEDGER_WAIT = timedelta(seconds=30)
"""When a run is offered again that could not be claimed (`docs/promise.md` 7)."""
PATIENCE = timedelta(seconds=30)
"""How long a wait may be for the process to be kept; a longer one goes back to Prefect."""


class Reconciler(Recogniser, Protocol):
    """What a run needs of sync, handed in by the flow: this room stands below it."""

    async def compare(self, job_id: str, deployment_id: str) -> frozenset[str]:
        """Take over into the ledger what was edited in Prefect on this one job.

        Returns the ids of the schedules that stay Prefect's own.
        """
        ...

    async def push(self, job_id: str) -> None:
        """Bring to Prefect what changed in the ledger on this one job."""
        ...


async def enter(
    ledger: Ledger,
    offer: Offer,
    reconciler: Reconciler,
    clock: Clock,
    *,
    deployment_id: str | None = None,
    made_by: str | None = None,
    patience: timedelta = PATIENCE,
) -> Granted | Ended:
    """Claim the occurrence; a run that has to wait leaves with Prefect's `Abort`.

    ``made_by`` is the id of who made the Prefect run: of an auto-scheduled one, its schedule.
    ``patience`` is how long a wait may be for this process to be kept.
    """
    while True:
        answer = await decide(
            ledger, offer, reconciler, deployment_id=deployment_id, made_by=made_by
        )
        match answer:
            case Granted() | Ended():
                return answer
            case Waiting(until=until) if until - ledger.now() <= patience or deployment_id is None:
                # By how much, not until when: this machine's clock may be ahead of the ledger's.
                await clock.wait_until(clock.now() + (until - ledger.now()))
            case Waiting(until=until, why=why):
                await set_back(str(offer.flow_run_id), until, why, ledger)
            case Taken() if answer.flow_run_id == offer.flow_run_id:
                # Another process carries this very flow run: its state is that one's to write.
                raise Abort(f"run {answer.run_id} is held by {answer.holder}")
            case Taken():
                return taken(answer)


def shown(answer: Ended, flow_run_id: str) -> Ended:
    """How the Prefect run ends that offered an occurrence which has its outcome.

    What another Prefect run carried is not this one's to show.
    """
    own = answer.flow_run_id == flow_run_id or answer.status in {Status.SKIPPED, Status.MISSED}
    if own:
        return answer
    return Ended(Status.SKIPPED, f"already judged: {answer.status}", answer.run_id)


def taken(answer: Taken) -> Ended:
    """How the Prefect run ends whose occurrence another one carries."""
    return Ended(Status.SKIPPED, f"run {answer.run_id[:8]} has it already", answer.run_id)


async def decide(
    ledger: Ledger,
    offer: Offer,
    reconciler: Reconciler,
    *,
    deployment_id: str | None = None,
    made_by: str | None = None,
) -> Granted | Waiting | Ended | Taken:
    """Claim; where the ledger does not know the instant, once more after a look at Prefect."""
    found = settings.load()
    offer = replace(offer, rules=limits.of_settings(found))
    if offer.most is not None:
        offer = replace(offer, classes=found.max_of_class)
    while True:
        answer = await claim(ledger, offer)
        if isinstance(answer, Waiting) and answer.cancel:
            await ask_to_end(answer.cancel, answer.why)
        if not isinstance(answer, Compare):
            return answer
        foreign = await reconciler.compare(answer.job_id, str(deployment_id))
        offer = replace(offer, compared=True)
        if made_by in foreign:
            # A schedule that no job can say: its runs are not due times of the job.
            offer = replace(offer, occurrence=flow_key(str(offer.flow_run_id)))
