"""Progress check after the chaos test: the remaining work may take long while it still shrinks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from daybook.ledger.states import HELD, Status
from daybook.ledger.tables import RunRow
from daybook.runs.slots import SLOT

PATIENCE_SECONDS = 150.0
"""Longest time without progress: two leases, a grace period, and the retry delays of a callback."""
IDLE_SECONDS = 60.0
"""Longest time in which no run starts although slots are free and runs wait for one."""


@dataclass(frozen=True)
class Left:
    """Counts of what is still open: ``unheld`` runs wait for a slot, ``held`` runs have one.

    ``begun`` is the number of claims granted so far.
    """

    total: int
    unheld: int = 0
    held: int = 0
    begun: int = 0

    @classmethod
    def of(cls, rows: Sequence[RunRow], lacking: int, unsent: int) -> Left:
        """Count ``rows``; ``lacking`` due times have no row, ``unsent`` messages are not sent."""
        waiting = [row for row in rows if row.state is Status.WAITING]
        held = [row for row in rows if row.state in HELD]
        unmirrored = sum(row.unmirrored for row in rows)
        return cls(
            total=lacking + len(waiting) + len(held) + unmirrored + unsent,
            unheld=sum(row.waits_for == SLOT for row in waiting),
            held=len(held),
            begun=sum(row.fence for row in rows),
        )


class Backlog:
    """``slots`` is the limit of concurrent runs; times are seconds of one clock."""

    def __init__(self, slots: int, began: float) -> None:
        self._slots, self._began = slots, began
        self._least: int | None = None
        self._less_since = self._busy_since = began
        self._begun = -1
        self.wrong = ""

    def goes_on(self, left: Left, now: float) -> bool:
        """Return whether to check again; if no although work is left, set ``wrong``."""
        if self._least is None or left.total < self._least:
            self._least, self._less_since = left.total, now
        idle = left.unheld and left.held < self._slots and left.begun == self._begun
        if not idle:
            self._begun, self._busy_since = left.begun, now
        if not left.total:
            return False
        if now - self._busy_since >= IDLE_SECONDS:
            self.wrong = (
                f"stood still: for {IDLE_SECONDS:g} s no run began, though {left.held} of "
                f"{self._slots} slots were taken and {left.unheld} runs waited for one"
            )
        elif now - self._less_since >= PATIENCE_SECONDS:
            self.wrong = f"stood still: for {PATIENCE_SECONDS:g} s no less than {left.total} left"
        return not self.wrong
