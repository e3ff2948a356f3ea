"""What a worker does from its start to its end.

::

    intake ─► take ─► a process ─► watched ─► aftermath
      ▲         ▲                    ▲
      │         │                    └ the leases of all of them in one transaction, in time
      │         └ a slot became free
      └ events, and a poll every 2 s;  beside it a keeper, which leads or stands by

Stopped, it takes nothing more, gives what is at work `Timing.shutdown_wait` to end by itself, then
ends it: softly, then hard.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, NoReturn
from uuid import UUID

import httpx
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.logging.loggers import flow_run_logger

from daybook.errors import DaybookError, Unreachable
from daybook.keeper import leader
from daybook.keeper.services import Keeper
from daybook.ledger.engine import Ledger
from daybook.ledger.tables import RunRow
from daybook.prefect import ended_runs, scheduled_runs, stale_runs, states
from daybook.runs import leases
from daybook.timing import TIMING
from daybook.worker import events, exit_handling, external_runs
from daybook.worker.dispatcher import Taker
from daybook.worker.launch import Launcher
from daybook.worker.run_queue import Intake
from daybook.worker.supervision import Cause, Watched

log = logging.getLogger(__name__)

FOREIGN_END = external_runs.HOOKS + 30.0
"""Seconds that telling Prefect of a foreign run's end may take, its hooks included."""


@dataclass(frozen=True)
class Place:
    """Where a worker works: its name, its pool and that pool's queues (none: all), how many runs
    it may have at once (None: any number), how many there may be in all, and how often in seconds
    Prefect hears of it.
    """

    name: str
    pool: str
    pool_id: UUID | None
    queues: list[str]
    limit: int | None
    most: int
    heartbeat: float


class Work:
    """``sync`` tells Prefect that the worker lives; ``configure`` says what the pool wants of a
    flow run that is not of a job.
    """

    def __init__(
        self,
        ledger: Ledger,
        client: PrefectClient,
        launcher: Launcher,
        place: Place,
        *,
        sync: Callable[[], Coroutine[Any, Any, Any]],
        configure: external_runs.Configure,
    ) -> None:
        self._ledger, self._client, self._launcher = ledger, client, launcher
        self._place, self._sync, self._configure = place, sync, configure
        self._holder = leader.new_holder()
        self._watched: dict[str, Watched] = {}
        self._after: set[asyncio.Task[None]] = set()
        self._renewed = time.monotonic()
        self._taking: dict[str, bool] = {}
        """Flow runs that are being started, and whether a cancel was heard of meanwhile."""
        self._turned_away = False
        self._going, self._stopping = False, False
        self._calling = self._call_again = False
        self._hurry = asyncio.Event()
        self._taker = Taker(
            ledger,
            client,
            launcher,
            holder=self._holder,
            most=place.most,
            free=self._has_room,
            watch=self._watch,
            call_up=self._next,
        )
        self._caring = (self._renew, self._beat, self._cancels_in_prefect)
        """What runs at work need: leases, a sign of life, and the net under cancels."""
        self.intake = Intake(client, place.pool, place.queues, self._take)
        self.keeper = Keeper(ledger, self._holder, supervised=self._watched.keys)

    async def go_on(self) -> NoReturn:
        """Until cancelled; `wind_up` comes after it."""
        self._going = True
        async with asyncio.TaskGroup() as group:
            group.create_task(self.intake.hand_out())
            group.create_task(self.intake.poll())
            group.create_task(self._leftovers())
            group.create_task(self.keeper.go_on())
            for work in self._caring:
                group.create_task(work())
            if self._place.pool_id is not None:
                group.create_task(events.listen(self._place.pool_id, self._heard))
            self.intake.poll_soon()
        raise AssertionError("its tasks end by cancelling only")

    async def once(self) -> None:
        """Take what is due now, and see it to its end."""
        await self.intake.look()
        taking = asyncio.create_task(self.intake.hand_out())
        await asyncio.sleep(0)
        taking.cancel()
        await self.intake.finish()
        async with self._care():
            await self._all_ended()

    def _has_room(self) -> bool:
        at_work = len(self._watched) + self._taker.starting
        return self._place.limit is None or at_work < self._place.limit

    async def _take(self, run: FlowRun) -> None:
        if str(run.id) in self._watched or self._stopping:
            return
        self._taking[str(run.id)] = False
        try:
            if await self._taker.take(run):
                return
            if not self._has_room():
                self._turned_away = True  # nobody else wakes it
            else:
                self._taker.starting += 1
                try:
                    await external_runs.start(
                        self._taker, self._client, run, self._configure, self._mark
                    )
                finally:
                    self._taker.starting -= 1
        finally:
            del self._taking[str(run.id)]

    @property
    def _mark(self) -> str:
        """Before the pid in the `infrastructure_pid` of runs that have no lease."""
        return f"{self._place.name}:{self._holder.rpartition(':')[2]}"

    def _watch(self, watched: Watched) -> None:
        self._watched[watched.flow_run_id] = watched
        if self._taking.get(watched.flow_run_id):
            watched.stop(Cause.CANCEL)
        task = asyncio.create_task(self._see_to_the_end(watched))
        self._after.add(task)
        task.add_done_callback(self._after.discard)

    async def _see_to_the_end(self, watched: Watched) -> None:
        try:
            await watched.watch()
            if watched.ours:
                await exit_handling.settle(self._ledger, self._client, watched)
            else:
                # Where Prefect is away for longer, `leftovers` tells it.
                async with asyncio.timeout(FOREIGN_END):
                    await external_runs.ended(self._client, self._launcher, watched)
            self._tell_tail(watched)
        except Exception:
            # The lease runs out, and whoever judges it then has the run.
            log.exception("the end of %s was not written down", watched.flow_run.name)
        finally:
            with suppress(OSError):
                watched.running.output.unlink()
            del self._watched[watched.flow_run_id]
            await self._next()

    def _tell_tail(self, watched: Watched) -> None:
        if watched.exit_code == 0 and watched.cause is None:
            return
        tail = watched.tail()
        if tail:
            logger = flow_run_logger(watched.flow_run)
            logger.error("The last lines of its process:\n%s", tail)

    async def _next(self) -> None:
        """A slot is free: the run that waited longest gets it (`docs/promise.md` 12).

        While this is at work for one slot, it is told once that there are more.
        """
        self._call_again = True
        if self._calling:
            return
        self._calling = True
        try:
            while self._call_again and not self._stopping:
                self._call_again = False
                await self._call_up()
        except (DaybookError, httpx.HTTPError) as error:
            log.warning("nobody was woken: %s", error)
        finally:
            self._calling = False

    async def _call_up(self) -> None:
        most = self._place.most
        woken = await scheduled_runs.wake(self._ledger, self._client, most, at_hand=self._hand)
        if woken or self._turned_away:
            self._turned_away = False
            self.intake.poll_soon()

    def _hand(self, row: RunRow) -> bool:
        """Start a run that this worker has set back: nothing has to be moved in Prefect for it."""
        run = self._taker.waiting(row) if self._going and self._has_room() else None
        if run is None:
            return False
        self.intake.hand(run)
        return True

    async def _heard(self, flow_run_id: str, state: str) -> None:
        if state in events.SCHEDULED:
            self.intake.poll_soon()
            return
        if state in {"Cancelling", "Cancelled"}:
            if flow_run_id in self._taking:
                self._taking[flow_run_id] = True
            if flow_run_id in self._watched:
                self._watched[flow_run_id].stop(Cause.CANCEL)
        if state in events.ENDED and flow_run_id not in self._watched:
            await self._quietly(ended_runs.one(self._ledger, self._client, flow_run_id))

    async def _beat(self) -> NoReturn:
        """Prefect's heartbeat of a worker, and what it says of the pool."""
        while True:
            await asyncio.sleep(self._place.heartbeat)
            await self._quietly(self._sync())

    async def _renew(self) -> NoReturn:
        """Keep the leases of what is watched; end what lost its own."""
        while True:
            await asyncio.sleep(TIMING.lease_check.total_seconds())
            since = time.monotonic() - self._renewed
            ours = {w.run_id: w for w in self._watched.values() if w.ours}
            if not ours:
                self._renewed = time.monotonic()
                continue
            if since >= TIMING.rerun_stop.total_seconds():
                for watched in ours.values():
                    if watched.policy.on_lost == "rerun":
                        watched.stop(Cause.LOST)
            if since < TIMING.run_lease_renewal.total_seconds():
                continue
            try:
                known = await leases.renew_all(self._ledger, self._holder, list(ours))
            except Exception as error:
                # Whatever it is: the next turn tries again, and the leases are longer than that.
                log.warning("leases are not renewed: %s", error, extra={"action": "not_renewed"})
                continue
            self._renewed = time.monotonic()
            for run_id, watched in ours.items():
                watched.renewed(known.get(run_id))

    async def _leftovers(self) -> NoReturn:
        while True:
            await self._quietly(
                stale_runs.leftovers(
                    self._ledger,
                    self._client,
                    self._place.pool,
                    self._place.name,
                    supervised=lambda: self._watched.keys() | self._taking.keys(),
                )
            )
            await asyncio.sleep(TIMING.leftover_check.total_seconds())

    async def _cancelled_in_prefect(self) -> None:
        """The net under the events: a cancel that was not heard of."""
        if not self._watched:
            return
        stopping = [StateType.CANCELLING, StateType.CANCELLED]
        found = await self._client.read_flow_runs(
            flow_run_filter=FlowRunFilter(
                id=FlowRunFilterId(any_=[UUID(each) for each in self._watched]),
                state=FlowRunFilterState(type=FlowRunFilterStateType(any_=stopping)),
            ),
        )
        for run in found:
            watched = self._watched.get(str(run.id))
            # The process of a skipped run ends by itself: it has just set that state.
            if watched is not None and states.is_being_cancelled(run.state):
                watched.stop(Cause.CANCEL)

    async def _quietly(self, work: Coroutine[Any, Any, Any]) -> None:
        """What fails here is tried again at the next turn."""
        try:
            await work
        except (Unreachable, httpx.HTTPError) as error:
            log.warning("%s", error)
        except Exception:
            log.exception("a pass failed")

    def hurry(self) -> None:
        """What is at work gets no time to end by itself."""
        self._hurry.set()

    async def wind_up(self) -> None:
        """Take nothing more; wait for what is at work, end what goes on, write it down."""
        self._stopping = True
        async with self._care():
            await self.intake.finish()
            if self._after:
                longest = TIMING.shutdown_wait.total_seconds()
                log.info("waiting %g s for %d runs at work", longest, len(self._watched))
                hurry = asyncio.create_task(self._hurry.wait())
                done = asyncio.create_task(self._all_ended())
                await asyncio.wait(
                    {done, hurry}, timeout=longest, return_when=asyncio.FIRST_COMPLETED
                )
                hurry.cancel()
                done.cancel()
            for watched in list(self._watched.values()):
                watched.stop(Cause.SHUTDOWN)
            await self._all_ended()

    @asynccontextmanager
    async def _care(self) -> AsyncIterator[None]:
        """What runs at work need while nothing new is taken."""
        caring = [asyncio.create_task(work()) for work in self._caring]
        try:
            yield
        finally:
            for each in caring:
                each.cancel()

    async def _cancels_in_prefect(self) -> NoReturn:
        while True:
            await self._quietly(self._cancelled_in_prefect())
            await asyncio.sleep(TIMING.cancel_check.total_seconds())

    async def _all_ended(self) -> None:
        while self._after:
            await asyncio.wait(self._after)
