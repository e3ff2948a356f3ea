"""Scheduler that repeats the task cycle in one process."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any

from daybook.errors import InvalidInput, SchedulerStopped
from daybook.ledger.engine import Ledger
from daybook.tasks.cycle import CapabilityLoader, cycle
from daybook.tasks.model import EscalationPolicy
from daybook.tasks.notifier import Notifier
from daybook.tasks.statistics import CycleReport
from daybook.timing import TIMING

CYCLE_INTERVAL_SECONDS = TIMING.tasks_interval.total_seconds()
"""Seconds between two cycles."""

Cycle = Callable[[], Coroutine[Any, Any, CycleReport]]
"""Runs one cycle."""
CycleRunner = Callable[[Cycle], Awaitable[object]]
"""Runs the given cycle when it is time for it; an exception that it raises ends the scheduler."""


class Scheduler:
    """Repeats the cycle until it is stopped; it cannot be started again.

    ``policy`` is called for each cycle, because the settings may have changed. If it raises
    `InvalidInput`, the last valid policy stays in force, and the report says so.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        policy: Callable[[], EscalationPolicy],
        notifier: Notifier,
        capabilities_of: CapabilityLoader,
    ) -> None:
        self._ledger, self._load_policy = ledger, policy
        self._notifier, self._capabilities_of = notifier, capabilities_of
        self._stopped = asyncio.Event()
        self._policy: EscalationPolicy | None = None
        with suppress(InvalidInput):  # this process may become the leader much later
            self._policy = policy()

    async def run(self, turn: CycleRunner) -> None:
        """Run a cycle every `CYCLE_INTERVAL_SECONDS` seconds, each through ``turn``, until `stop`.

        Raises `SchedulerStopped` if it was stopped before.
        """
        self._require_running()
        while not self._stopped.is_set():
            await turn(self.cycle)
            with suppress(TimeoutError):
                async with asyncio.timeout(CYCLE_INTERVAL_SECONDS):
                    await self._stopped.wait()

    async def cycle(self) -> CycleReport:
        """Run one cycle now.

        Raises `SchedulerStopped`, `LedgerUnreachable`, and `InvalidInput` for `[tasks]` if it has
        never been valid.
        """
        self._require_running()
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

    def stop(self) -> None:
        """Stop for good: a cycle that is under way is the last one."""
        self._stopped.set()

    def _require_running(self) -> None:
        if self._stopped.is_set():
            raise SchedulerStopped
