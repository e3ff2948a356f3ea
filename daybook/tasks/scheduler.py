"""Scheduler that runs task cycles with the last valid options."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta

from daybook.errors import InvalidInput
from daybook.ledger.engine import Ledger
from daybook.tasks.cycle import CapabilityLoader, cycle
from daybook.tasks.notifier import Notifier
from daybook.tasks.policy import DEFAULTS, SchedulerPolicy
from daybook.tasks.statistics import CycleReport


class Scheduler:
    """Runs cycles of the task queue.

    ``policy`` is called for each cycle, because the settings may have changed. If it raises
    `InvalidInput`, the last valid policy stays in force, and the report says so.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        policy: Callable[[], SchedulerPolicy],
        notifier: Notifier,
        capabilities_of: CapabilityLoader,
    ) -> None:
        self._ledger, self._load_policy = ledger, policy
        self._notifier, self._capabilities_of = notifier, capabilities_of
        self._policy: SchedulerPolicy | None = None
        with suppress(InvalidInput):  # this process may become the leader much later than it starts
            self._policy = policy()

    @property
    def interval(self) -> timedelta:
        """Time between two cycles."""
        return (self._policy or DEFAULTS).interval

    async def cycle(self) -> CycleReport:
        """Run one cycle now.

        Raises `LedgerUnreachable`, and `InvalidInput` if the policy has never been valid.
        """
        refused = None
        try:
            self._policy = self._load_policy()
        except InvalidInput as error:
            if self._policy is None:
                raise
            refused = error
        return await cycle(
            self._ledger,
            policy=self._policy,
            notifier=self._notifier,
            capabilities_of=self._capabilities_of,
            refused=refused,
        )
