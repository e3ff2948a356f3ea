"""Free slots: a worker gives them to the waiting runs with the earliest due times (promise 12).

A worker remembers the waiting runs that it has claimed in vain, and starts them itself. It wakes
only as many of them as it has room for: the process of a run occupies its room a little longer than
the run its slot, so a run that is woken too early claims in vain, and goes to the end of the queue.
It wakes the runs of other workers that wait for a slot in Prefect. The leading keeper wakes what is
left. A run that waits for room in its worker also claims by itself: any worker may start it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import timedelta
from typing import NoReturn

import httpx
from prefect.client.orchestration import PrefectClient

from daybook.errors import DaybookError, LedgerUnreachable
from daybook.ledger.engine import Ledger
from daybook.ledger.tables import RunRow
from daybook.prefect import scheduled_runs
from daybook.runs import waiting_runs
from daybook.worker.dispatcher import Dispatcher
from daybook.worker.run_queue import RunQueue

log = logging.getLogger(__name__)

FILL_INTERVAL_SECONDS = 5.0
"""Interval at which a worker with room tries again to start the runs that it remembers."""


class FreeSlots:
    """The free slots, of at most ``most`` for all workers, that one worker fills.

    ``room`` returns how many more runs may start in the worker, and None if it starts none any
    more, because it drains or stops. ``active`` returns how many runs of the worker have a slot.
    """

    def __init__(
        self,
        ledger: Ledger,
        client: PrefectClient,
        queue: RunQueue,
        dispatcher: Dispatcher,
        *,
        most: int,
        room: Callable[[], float | None],
        active: Callable[[], int],
    ) -> None:
        self._ledger, self._client = ledger, client
        self._queue, self._dispatcher = queue, dispatcher
        self._most, self._room, self._active = most, room, active
        self._filling = self._again = False
        self.tasks = set[asyncio.Task[None]]()
        """Calls in the background, which the caller has to cancel at its end."""
        self.polls_next = False
        """Whether to poll when a slot is free, for a run that is not in the ledger."""

    def fill_soon(self) -> None:
        """Call `fill` in the background."""
        task = asyncio.create_task(self.fill())
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def wait(self) -> None:
        """Wait until the calls in the background have ended."""
        while self.tasks:
            await asyncio.wait(self.tasks)

    async def keep(self) -> NoReturn:
        """Fill the slots again and again while the worker has room and remembers runs.

        The end of a run wakes no run if another worker has the slot for a moment, if the next run
        has not recorded yet that it waits, or if the ledger is unreachable.
        """
        drained = False
        while True:
            await asyncio.sleep(FILL_INTERVAL_SECONDS)
            try:
                self._dispatcher.show_held()
                drained = await self._check_holds(drained)
                if self._dispatcher.remembered.ids and (self._room() or 0) > 0:
                    await self.fill(after=scheduled_runs.WAKE_GRACE)
            except LedgerUnreachable as error:
                log.warning("cannot wake waiting runs: %s", error)
            except Exception:  # the next turn tries again
                log.exception("cannot wake waiting runs", extra={"action": "fill_failed"})

    async def _check_holds(self, drained: bool) -> bool:
        """End the holds of runs that wait for a slot no more, or that were woken and did not start.

        Mostly an event of Prefect has ended them before. If the worker drains no more, end all
        holds, so that it remembers the runs. ``drained`` is the last result: whether it drains.
        """
        drains, remembered = self._room() is None, self._dispatcher.remembered
        if not (held := list(remembered.all_held)):
            return drains
        async with self._ledger.read() as session:
            waiting = await waiting_runs.until_of_waits_for_slots(session)
        since = self._ledger.now() - scheduled_runs.WAKE_GRACE
        for each in held:
            if (until := waiting.get(each)) is None:
                remembered.forget(each)
            elif (each in remembered.ids and until <= since) or (drained and not drains):
                remembered.end_hold(each)
            else:
                continue
            self._queue.poll_soon()
        return drains

    async def fill(self, *, after: timedelta | None = None) -> None:
        """Wake the next runs; log the error of an unreachable ledger or Prefect.

        If another call is in progress, the other call makes one more pass instead. With ``after``,
        leave out runs that were woken less than ``after`` ago.
        """
        self._again = True
        if self._filling:
            return
        self._filling = True
        try:
            while self._again:
                self._again = False
                woken = await scheduled_runs.wake(
                    self._ledger,
                    self._client,
                    self._most,
                    at_hand=self._hand_out,
                    known=self._dispatcher.remembered.ids,
                    after=after,
                    choose=self._with_room,
                )
                after = None  # a run has ended meanwhile
                if woken or self.polls_next:
                    self.polls_next = False
                    self._queue.poll_soon()
        except (DaybookError, httpx.HTTPError) as error:
            log.warning("cannot wake a waiting run: %s", error)
        finally:
            self._filling = False
            self._dispatcher.unpark()

    def may_get_one(self) -> bool:
        """Return whether a run may get a slot now, as far as this worker knows.

        The runs that wait in the ledger get a free slot first.
        """
        if self._filling or (self._room() or 0) <= 0:
            return False
        claimed = self._dispatcher.starting + len(self._dispatcher.handed_out)
        return self._active() + claimed < self._most

    def _with_room(self, rows: list[RunRow]) -> list[RunRow]:
        """Leave out the runs that this worker remembers and has no room for.

        Also leave out runs that are about to claim here, and runs that wait for room in a worker
        and that this worker does not remember.
        """
        about_to_claim = {str(each) for each in self._dispatcher.handed_out}
        rows = [row for row in rows if row.flow_run_id not in about_to_claim]
        room = self._room()
        if room is None:
            return [row for row in rows if not row.wait_reason.of_worker]  # it starts none
        chosen = []
        for row in rows:
            if self._dispatcher.remembered.of(row) is not None:
                room -= 1
                if room < 0:
                    continue
            elif row.wait_reason.of_worker:
                continue  # only its own worker knows when it has room
            chosen.append(row)
        return chosen

    def _hand_out(self, row: RunRow) -> bool:
        """Dispatch the run of ``row`` at once if this worker remembers it and has room.

        Return whether the run was dispatched.
        """
        run = self._dispatcher.remembered.of(row) if (self._room() or 0) > 0 else None
        if run is None:
            return False
        self._dispatcher.hand_out(run)
        self._queue.hand_out_now(run)
        return True
