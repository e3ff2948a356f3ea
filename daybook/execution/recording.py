"""Bringing what an attempt came to into the ledger, for sure (`docs/promise.md` 6).

::

    settle ─► written
      ├ the ledger is away   kept in the spool at once, tried again until the lease is lost:
      │                      `Unwritten`, and whoever drains the spool writes it
      └ refused              another has decided meanwhile; kept with the run as evidence
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from pathlib import Path

from daybook.clock import Clock
from daybook.errors import DaybookError, FenceRefused, IllegalTransition, LedgerUnreachable
from daybook.execution import outcome_spool
from daybook.execution.outcome_spool import Spooled
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Outcome, Status
from daybook.runs.claim_requests import Granted
from daybook.timing import TIMING

log = logging.getLogger(__name__)

FIRST_WAIT = timedelta(seconds=1)
LONGEST_WAIT = timedelta(seconds=15)


class Unwritten(DaybookError):
    """The outcome is known and could not be written before the lease was lost.

    ``spooled`` is whether it lies in the spool, and so will be written; else it is lost.
    """

    code = "outcome_unwritten"

    def __init__(
        self, granted: Granted, outcome: Outcome, why: LedgerUnreachable, *, spooled: bool
    ) -> None:
        self.outcome, self.spooled = outcome, spooled
        kept = "; it is kept, and written later" if spooled else ""
        super().__init__(
            f"run {granted.run_id} was {outcome.status}, which could not be written down: "
            f"{why}{kept}"
        )


async def settle(
    ledger: Ledger,
    granted: Granted,
    outcome: Outcome,
    clock: Clock,
    again: datetime | None = None,
) -> Status:
    """Write the outcome of the run, or with ``again`` of its attempt: when the next one begins.

    Returns the status that the run has now. Raises `Unwritten`, `FenceRefused`,
    `IllegalTransition`.
    """
    wait, until = FIRST_WAIT, clock.now() + 2 * TIMING.run_lease
    known = Spooled(ledger.id, granted.run_id, granted.fence, outcome, again)
    file: Path | None = None
    while True:
        try:
            status = await known.write(ledger)
        except LedgerUnreachable as error:
            # Kept first: this process may be killed while it waits.
            file = file or _kept(known)
            if clock.now() + wait >= until:
                raise Unwritten(granted, outcome, error, spooled=file is not None) from error
            log.warning(
                "the outcome is not written yet: %s", error, extra={"action": "settle_unreachable"}
            )
        except (FenceRefused, IllegalTransition):
            outcome_spool.drop(file)
            raise
        else:
            outcome_spool.drop(file)
            return status
        await clock.wait_until(clock.now() + wait)
        wait = min(wait * 2, LONGEST_WAIT)


async def leave_word(ledger: Ledger, granted: Granted, outcome: Outcome) -> None:
    """Settle once, whatever comes of it: the process has no time, or the run is another's."""
    known = Spooled(ledger.id, granted.run_id, granted.fence, outcome)
    try:
        await known.write(ledger)
    except (FenceRefused, IllegalTransition) as error:
        log.warning("%s", error, extra={"action": "outcome_refused"})
    except LedgerUnreachable as error:
        kept = _kept(known) is not None
        what = "is written later" if kept else "is lost"
        log.error("the outcome %s: %s", what, error, extra={"action": "settle_unreachable"})


def _kept(known: Spooled) -> Path | None:
    try:
        return outcome_spool.put(known)
    except OSError as error:
        log.error("the outcome cannot be kept: %s", error, extra={"action": "spool_failed"})
        return None
