"""Free slots: a worker gives them to the waiting runs with the earliest due times (promise 12).

A worker remembers the waiting runs that it rescheduled in Prefect, and starts them itself. It wakes
only as many of them as it has room for: the process of a run occupies its room a little longer than
the run its slot, so a run that is woken too early claims in vain, and goes to the end of the queue.
It wakes the runs of other workers in Prefect. The leading keeper wakes what is left.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import httpx
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun

from daybook.errors import DaybookError
from daybook.ledger.engine import Ledger
from daybook.ledger.tables import RunRow
from daybook.prefect import scheduled_runs
from daybook.worker.dispatcher import Dispatcher
from daybook.worker.run_queue import RunQueue

log = logging.getLogger(__name__)


class FreeSlots:
    """The free slots, of at most ``most`` for all workers, that one worker fills.

    ``room`` returns how many more runs may start in the worker, and None if it starts none any
    more, because it drains or stops. ``may_start`` returns whether the worker may start a run.
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
        may_start: Callable[[FlowRun], bool],
    ) -> None:
        self._ledger, self._client = ledger, client
        self._queue, self._dispatcher = queue, dispatcher
        self._most, self._room, self._may_start = most, room, may_start
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

    async def fill(self) -> None:
        """Wake the next runs; log the error of an unreachable ledger or Prefect.

        If another call is in progress, the other call makes one more pass instead.
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
                    choose=self._with_room,
                )
                if woken or self.polls_next:
                    self.polls_next = False
                    self._queue.poll_soon()
        except (DaybookError, httpx.HTTPError) as error:
            log.warning("cannot wake a waiting run: %s", error)
        finally:
            self._filling = False

    def _with_room(self, rows: list[RunRow]) -> list[RunRow]:
        """Leave out the runs that this worker remembers and has no room for.

        Also leave out the runs that are about to claim here.
        """
        about_to_claim = {str(each) for each in self._dispatcher.handed_out}
        rows = [row for row in rows if row.flow_run_id not in about_to_claim]
        room = self._room()
        if room is None:
            return rows
        chosen = []
        for row in rows:
            if self._remembered(row) is not None:
                room -= 1
                if room < 0:
                    continue
            chosen.append(row)
        return chosen

    def _remembered(self, row: RunRow) -> FlowRun | None:
        """Return the Prefect run of ``row`` if this worker remembers it and may start it."""
        run = self._dispatcher.waiting(row)
        return run if run is not None and self._may_start(run) else None

    def _hand_out(self, row: RunRow) -> bool:
        """Dispatch the run of ``row`` at once if this worker remembers it and has room.

        Return whether the run was dispatched.
        """
        run = self._remembered(row) if (self._room() or 0) > 0 else None
        if run is None:
            return False
        self._dispatcher.hand_out(run)
        self._queue.hand_out_now(run)
        return True
