"""The cycle again and again, for one process: `Scheduler`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any

from daybook.errors import InvalidInput, SchedulerStopped
from daybook.ledger.engine import Ledger
from daybook.tasks.cycle import CapabilitiesOf, cycle
from daybook.tasks.model import Ladder
from daybook.tasks.notifier import Sink
from daybook.tasks.statistics import Report

EVERY = 15.0
"""Seconds between two cycles."""

Cycle = Callable[[], Coroutine[Any, Any, Report]]
"""Does one cycle."""
Turn = Callable[[Cycle], Awaitable[object]]
"""Has one cycle done, when it is time for it; what it lets through ends the scheduler."""


class Scheduler:
    """Cycles until it is stopped, and not again after that: who goes on makes another one.

    ``ladder`` is asked at each cycle, as the settings may have changed. Where it raises
    `InvalidInput` the last one that was legal holds on, and the report says so.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        ladder: Callable[[], Ladder],
        sink: Sink,
        capabilities_of: CapabilitiesOf,
    ) -> None:
        self._ledger, self._ladder = ledger, ladder
        self._sink, self._capabilities_of = sink, capabilities_of
        self._stopped = asyncio.Event()
        self._legal: Ladder | None = None

    async def go_on(self, turn: Turn) -> None:
        """A cycle every `EVERY` seconds, each through ``turn``, until `stop`.

        Raises `SchedulerStopped` for one that was stopped before.
        """
        self._check()
        with suppress(InvalidInput):  # it may be long until this process leads
            self._legal = self._ladder()
        while not self._stopped.is_set():
            await turn(self.cycle)
            with suppress(TimeoutError):
                async with asyncio.timeout(EVERY):
                    await self._stopped.wait()

    async def cycle(self) -> Report:
        """One now.

        Raises `SchedulerStopped`, `LedgerUnreachable`, and `InvalidInput` for `[tasks]` where it
        has not been legal yet.
        """
        self._check()
        refused = None
        try:
            self._legal = self._ladder()
        except InvalidInput as error:
            if self._legal is None:
                raise
            refused = error
        return await cycle(
            self._ledger,
            ladder=self._legal,
            sink=self._sink,
            capabilities_of=self._capabilities_of,
            refused=refused,
        )

    def stop(self) -> None:
        """For good: the cycle that is under way is the last one."""
        self._stopped.set()

    def _check(self) -> None:
        if self._stopped.is_set():
            raise SchedulerStopped
