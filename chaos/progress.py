"""Progress check after the chaos test: the remaining work may take long while it still shrinks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from daybook.ledger import waits
from daybook.ledger.states import HELD, Status
from daybook.ledger.tables import RunRow
from daybook.timing import TIMING

STANDSTILL_SECONDS = 2 * TIMING.run_lease.total_seconds() + 30.0
"""Longest time without progress: two leases, a grace period, and the retry delays of a callback."""
FREE_SLOT_SECONDS = 60.0
"""Longest time in which no run starts although slots are free and runs wait for one."""


@dataclass(frozen=True)
class Remaining:
    """Remaining work: ``total`` counts all of it, ``claims`` the claims so far.

    ``waiting`` runs wait for a slot, ``claimed`` runs have one.
    """

    total: int
    waiting: int = 0
    claimed: int = 0
    claims: int = 0

    @classmethod
    def of(cls, rows: Sequence[RunRow], lacking: int, unsent: int) -> Remaining:
        """Count ``rows``; ``lacking`` due times have no row, ``unsent`` messages are not sent."""
        waiting = [row for row in rows if row.state is Status.WAITING]
        claimed = [row for row in rows if row.state in HELD]
        unmirrored = sum(row.unmirrored for row in rows)
        return cls(
            total=lacking + len(waiting) + len(claimed) + unmirrored + unsent,
            waiting=sum(row.wait_reason is waits.SLOT for row in waiting),
            claimed=len(claimed),
            claims=sum(row.fence for row in rows),
        )


class ProgressCheck:
    """Detects a standstill; ``slots`` is the limit of concurrent runs, times are in seconds."""

    def __init__(self, slots: int, now: float) -> None:
        self._slots = slots
        self._least: int | None = None
        self._least_since = self._busy_since = now
        self._claims = -1
        self.standstill = ""

    def must_wait(self, remaining: Remaining, now: float) -> bool:
        """Return whether to check again later; set ``standstill`` if the work does not progress."""
        if self._least is None or remaining.total < self._least:
            self._least, self._least_since = remaining.total, now
        idle = (
            remaining.waiting
            and remaining.claimed < self._slots
            and remaining.claims == self._claims
        )
        if not idle:
            self._claims, self._busy_since = remaining.claims, now
        if not remaining.total:
            return False
        if now - self._busy_since >= FREE_SLOT_SECONDS:
            self.standstill = (
                f"standstill: for {FREE_SLOT_SECONDS:g} s no run started, although only "
                f"{remaining.claimed} of {self._slots} slots were in use and {remaining.waiting} "
                "runs waited for one"
            )
        elif now - self._least_since >= STANDSTILL_SECONDS:
            self.standstill = (
                f"standstill: for {STANDSTILL_SECONDS:g} s the remaining work did not decrease; "
                f"{remaining.total} left"
            )
        return not self.standstill
