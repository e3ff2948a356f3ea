"""Recording of an attempt's outcome in the ledger, with retries and the spool.

::

    finish ─► written
      ├ ledger unreachable   spooled at once, retried for two leases, then `OutcomeUnwritten`;
      │                      a later drain of the spool writes it
      └ refused              decided by another process; kept with the run as evidence
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from pathlib import Path

from daybook.clock import Clock
from daybook.errors import (
    DaybookError,
    FenceRefused,
    IllegalTransition,
    LedgerNewer,
    LedgerUnreachable,
)
from daybook.execution import outcome_spool
from daybook.execution.outcome_spool import SpooledOutcome
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Outcome, Status
from daybook.runs import claims
from daybook.runs.approvals import Question
from daybook.runs.claim_requests import Granted
from daybook.timing import TIMING

log = logging.getLogger(__name__)

FIRST_RETRY_DELAY = timedelta(seconds=1)
MAX_RETRY_DELAY = timedelta(seconds=15)


class OutcomeUnwritten(DaybookError):
    """The outcome is known, but the ledger was unreachable for too long (two leases) to record it.

    If ``spooled``, the outcome is in the spool and will be recorded later; otherwise it is lost.
    """

    code = "outcome_unwritten"

    def __init__(
        self, granted: Granted, outcome: Outcome, why: LedgerUnreachable, *, spooled: bool
    ) -> None:
        self.outcome, self.spooled = outcome, spooled
        kept = "; it is stored in the home and will be recorded later" if spooled else ""
        super().__init__(
            f"run {granted.run_id} ended as {outcome.status}, but its outcome could not be "
            f"recorded: {why}{kept}"
        )


async def finish(
    ledger: Ledger,
    granted: Granted,
    outcome: Outcome,
    clock: Clock,
    again: datetime | None = None,
) -> Status:
    """Record the outcome of the run or, with ``again`` (the next attempt's start), of an attempt.

    Return the run's new status. Raise `OutcomeUnwritten`, `FenceRefused` or `IllegalTransition`.
    """
    delay, deadline = FIRST_RETRY_DELAY, clock.now() + 2 * TIMING.run_lease
    spooled = SpooledOutcome(ledger.id, granted.run_id, granted.fence, outcome, again)
    file: Path | None = None
    while True:
        try:
            status = await spooled.write(ledger)
        except LedgerUnreachable as error:
            # Spool it first, because this process may be killed while it waits.
            file = file or _spool(spooled)
            if clock.now() + delay >= deadline or isinstance(error, LedgerNewer):
                raise OutcomeUnwritten(granted, outcome, error, spooled=file is not None) from error
            log.warning(
                "the outcome is not recorded yet: %s",
                error,
                extra={"action": "outcome_not_recorded"},
            )
        except (FenceRefused, IllegalTransition):
            outcome_spool.drop(file)
            raise
        else:
            outcome_spool.drop(file)
            return status
        await clock.wait_until(clock.now() + delay)
        delay = min(delay * 2, MAX_RETRY_DELAY)


async def ask(ledger: Ledger, granted: Granted, question: Question, clock: Clock) -> datetime:
    """Make the run wait for a person's answer; return the latest time at which the wait ends.

    Raise the errors of `claims.wait_for_approval`. If the ledger is unreachable for two leases, or
    newer than this program, raise `OutcomeUnwritten`: the lease is lost, and no person was asked.
    """
    delay, deadline = FIRST_RETRY_DELAY, clock.now() + 2 * TIMING.run_lease
    while True:
        try:
            return await claims.wait_for_approval(ledger, granted.run_id, granted.fence, question)
        except LedgerUnreachable as error:
            if clock.now() + delay >= deadline or isinstance(error, LedgerNewer):
                unasked = Outcome(Status.UNKNOWN, f"no approval of {question.tool} was asked for")
                raise OutcomeUnwritten(granted, unasked, error, spooled=False) from error
            log.warning(
                "the approval is not asked for yet: %s", error, extra={"action": "ask_failed"}
            )
        await clock.wait_until(clock.now() + delay)
        delay = min(delay * 2, MAX_RETRY_DELAY)


async def finish_once(ledger: Ledger, granted: Granted, outcome: Outcome) -> None:
    """Try once to record the outcome; spool it if the ledger is unreachable.

    Log a refusal and an unreachable ledger instead of raising the error, since the run is over.
    """
    spooled = SpooledOutcome(ledger.id, granted.run_id, granted.fence, outcome)
    try:
        await spooled.write(ledger)
    except (FenceRefused, IllegalTransition) as error:
        log.warning("%s", error, extra={"action": "outcome_refused"})
    except LedgerUnreachable as error:
        is_spooled = _spool(spooled) is not None
        what = "will be recorded later" if is_spooled else "is lost"
        log.error("the outcome %s: %s", what, error, extra={"action": "outcome_not_recorded"})


def _spool(spooled: SpooledOutcome) -> Path | None:
    try:
        return outcome_spool.put(spooled)
    except OSError as error:
        log.error("cannot store the outcome: %s", error, extra={"action": "spool_failed"})
        return None
