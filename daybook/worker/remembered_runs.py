"""The waiting runs that a worker remembers, to start them when a slot is free without Prefect.

While a worker starts runs, it also *holds* each run that it has claimed in vain, and that waits for
a slot: the run is not rescheduled in Prefect, because a worker will soon start it::

    claim in vain ─► held ──woken for a free slot────────► claims again
                      ├──its wait ends───────────────────► claims again
                      ├──the worker starts no more runs──► rescheduled in Prefect
                      └──changed in Prefect, or the worker stops──► left as it is in Prefect

A run that is held waits in the ledger. It is due in Prefect, unless it was rescheduled before, so
each worker finds it with a poll. A worker that cannot start it at once, and finds it waiting in the
ledger, holds it too, without a claim or a change in Prefect: as one of those that it may start when
a slot is free, or so that it does not claim a run that only other workers may start.

An event of a new state in Prefect ends a hold. If no event comes, `FreeSlots.keep` ends it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from enum import Enum

from prefect.client.schemas.objects import FlowRun

from daybook.ledger.tables import RunRow

MAX_REMEMBERED = 2000
"""Maximum number of runs that a worker remembers; the leading keeper wakes the others."""


class HoldEnd(Enum):
    """Why a run is held no longer."""

    DUE = "its wait has ended"
    NO_STARTS = "the worker starts no more runs, or has forgotten this one"
    LEFT = "it was woken, or changed in Prefect, or the worker stops"


class RememberedRuns:
    """The remembered runs, at most `MAX_REMEMBERED`; the one that was added first is forgotten."""

    def __init__(self) -> None:
        self._runs: dict[str, tuple[int, FlowRun]] = {}
        self._held: dict[str, asyncio.Future[HoldEnd]] = {}
        self._own = set[str]()

    @property
    def ids(self) -> Collection[str]:
        """Return the ids of the remembered runs."""
        return self._runs.keys()

    @property
    def held(self) -> int:
        """Return how many runs are held that this worker may start."""
        return sum(each in self._own or each in self._runs for each in self._held)

    @property
    def all_held(self) -> Collection[str]:
        """Return the ids of all runs that are held."""
        return self._held.keys()

    def add(self, run: FlowRun, fence: int) -> None:
        """Remember a run that waits; ``fence`` is the fencing token of its row."""
        self._runs[str(run.id)] = fence, run
        if len(self._runs) > MAX_REMEMBERED:
            first = next(iter(self._runs))
            del self._runs[first]
            self.end_hold(first, HoldEnd.NO_STARTS)

    def forget(self, run_id: str) -> bool:
        """Forget a run, and hold it no longer; return whether it was remembered."""
        self.end_hold(run_id)
        return self._runs.pop(run_id, None) is not None

    def of(self, row: RunRow) -> FlowRun | None:
        """Return the remembered run of ``row``, if it was not claimed since."""
        fence, run = self._runs.get(str(row.flow_run_id), (None, None))
        return run if fence == row.fence else None

    async def hold(self, run_id: str, seconds: float, *, is_own: bool = True) -> HoldEnd:
        """Hold a run for at most ``seconds``; return why it is held no longer.

        ``is_own`` is true if this worker has claimed the run in vain, so it has to show the wait.
        """
        loop = asyncio.get_running_loop()
        held: asyncio.Future[HoldEnd] = loop.create_future()
        self._held[run_id] = held
        if is_own:
            self._own.add(run_id)
        timer = loop.call_later(seconds, self.end_hold, run_id, HoldEnd.DUE)
        try:
            return await held
        finally:
            timer.cancel()
            if self._held.get(run_id) is held:
                self.end_hold(run_id)

    def end_hold(self, run_id: str, why: HoldEnd = HoldEnd.LEFT) -> None:
        """Hold a run no longer; do nothing if it is not held."""
        held = self._held.pop(run_id, None)
        self._own.discard(run_id)
        if held is not None and not held.done():
            held.set_result(why)

    def end_holds(self) -> None:
        """Hold no run any longer, and leave all as they are in Prefect."""
        for run_id in list(self._held):
            self.end_hold(run_id)

    def end_last_hold(self) -> str | None:
        """Hold the last of the worker's own runs no longer, and show its wait; return its id."""
        last = next((each for each in reversed(self._held) if each in self._own), None)
        if last is not None:
            self.end_hold(last, HoldEnd.NO_STARTS)
        return last
