"""Watching what is left after the storm: it may take long, as long as it gets less."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from daybook.ledger.states import HELD, Status
from daybook.ledger.tables import RunRow
from daybook.runs.slots import SLOT

PATIENCE_SECONDS = 150.0
"""How long nothing may get less: two leases, a grace, and the waits between tries of a callback."""
IDLE_SECONDS = 60.0
"""How long no run may begin while slots are free and runs wait for one."""


@dataclass(frozen=True)
class Left:
    """What has still to happen, in numbers: ``unheld`` runs wait for a slot, ``held`` have one.

    ``begun`` is how many claims were granted so far.
    """

    total: int
    unheld: int = 0
    held: int = 0
    begun: int = 0

    @classmethod
    def of(cls, rows: Sequence[RunRow], lacking: int, unsent: int) -> Left:
        """Count it in all ``rows``; ``lacking`` due times have no row, ``unsent`` are not sent."""
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
    """``slots`` are how many runs may be at work at once; times are seconds of one clock."""

    def __init__(self, slots: int, began: float) -> None:
        self._slots, self._began = slots, began
        self._least: int | None = None
        self._less_since = self._busy_since = began
        self._begun = -1
        self.wrong = ""

    def goes_on(self, left: Left, now: float) -> bool:
        """Return whether to look again; if not, and something is left, ``wrong`` says why."""
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
