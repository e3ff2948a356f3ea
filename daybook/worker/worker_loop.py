"""Main loop of a worker, from its start to its end.

::

    run queue ─► dispatch ─► a process ─► supervised ─► exit handling
      ▲           ▲                        ▲
      │           │                        └ leases, all renewed in one transaction
      │           └ a slot became free
      └ events, and a poll every `Timing.poll`

A keeper, which leads or stands by, runs in the same loop, unless the worker runs once. A worker
that is being stopped starts no further run, and waits `Timing.shutdown_wait` for active runs to end
by themselves. Then it ends them, with SIGTERM first and SIGKILL later.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
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
from prefect.events import Event
from prefect.events.filters import EventAnyResourceFilter, EventFilter, EventNameFilter
from prefect.logging.loggers import flow_run_logger

from daybook.errors import LedgerNewer, LedgerUnreachable, Unreachable
from daybook.keeper import event_stream, leadership, lease_reaper
from daybook.keeper.keeper import Keeper
from daybook.keeper.overview import Overview
from daybook.ledger.engine import Ledger
from daybook.prefect import ended_runs, stale_runs, states
from daybook.processes import proc
from daybook.processes.ending import cancel_all
from daybook.runs import leases, workers
from daybook.runs.workers import WorkerRecord
from daybook.timing import TIMING
from daybook.tools import worker_tools
from daybook.worker import exit_handling, external_runs, membership
from daybook.worker.dispatcher import Dispatcher, GetRecords, ResolveProcessSpec, no_records
from daybook.worker.free_slots import FreeSlots
from daybook.worker.launcher import Launcher
from daybook.worker.membership import Membership
from daybook.worker.run_queue import RunQueue
from daybook.worker.supervision import StopCause, SupervisedRun

log = logging.getLogger(__name__)

EXTERNAL_END_TIMEOUT_SECONDS = external_runs.HOOKS_TIMEOUT_SECONDS + 30.0
"""Timeout for reporting an external run's end to Prefect, including the flow's hooks."""

MEMORY_CHECK_INTERVAL_SECONDS = 10.0
DRAIN_SECONDS = 45.0
"""How long a worker that uses too much memory waits for the end of its active runs."""
DRAIN_PAUSE_SECONDS = 600.0


@dataclass(frozen=True)
class WorkerConfig:
    """Configuration of a worker.

    - ``pool_id``: the pool's id, to receive its events; None to only poll.
    - ``queues``: the pool's queues to poll; empty for all queues.
    - ``limit``: maximum number of runs in this worker; None for no limit.
    - ``most``: maximum number of active runs in the ledger.
    - ``heartbeat``: interval of the worker's heartbeats to Prefect, in seconds.
    - ``max_memory``: bytes of memory; a worker that uses more stops as soon as no run is active. 0
      for no limit.
    - ``labels``: labels of the jobs that only such workers run.
    - ``folders``: folders in which Daybook stores data.
    - ``holder``: the worker's unique name in its leases; by default a new name.
    - ``holders``: folder with the locks of holders, if any.
    """

    name: str
    pool: str
    pool_id: UUID | None
    queues: list[str]
    limit: int | None
    most: int
    heartbeat: float
    max_memory: int = 0
    labels: tuple[str, ...] = ()
    folders: Sequence[Path] = ()
    holder: str = ""
    holders: Path | None = None


class WorkerLoop:
    """Main loop of a worker.

    ``sync`` sends the worker's heartbeat to Prefect; ``configure`` returns the pool's process
    settings for an external run, and ``records`` the records of Prefect that the runs of jobs need.
    """

    def __init__(
        self,
        ledger: Ledger,
        client: PrefectClient,
        launcher: Launcher,
        config: WorkerConfig,
        *,
        sync: Callable[[], Coroutine[Any, Any, Any]],
        configure: ResolveProcessSpec,
        records: GetRecords = no_records,
    ) -> None:
        self._ledger, self._client, self._launcher = ledger, client, launcher
        self._config, self._sync, self._configure = config, sync, configure
        self._holder = config.holder or leadership.new_holder(config.name)
        self._name = workers.plain_name(config.name)
        self._watched, self._exits = dict[str, SupervisedRun](), set[asyncio.Task[None]]()
        self._renewed, self._started_at = time.monotonic(), ledger.now()
        self._dispatching: dict[str, bool] = {}
        """Flow runs that are dispatched, mapped to whether each may be cancelled meanwhile."""
        self._may_be_cancelled = asyncio.Event()
        """Set by an event of a cancellation. The event may be older than a Retry of the run."""
        self._running, self._stopping, self._draining = False, False, False
        self._force_stop = asyncio.Event()
        self.used_too_much_memory = False
        """Whether this worker has stopped itself because it used too much memory."""
        self._membership = Membership(
            ledger,
            self._name,
            self._holder,
            labels=config.labels,
            queues=config.queues,
            own_record=self._own_record,
        )
        self._dispatcher = Dispatcher(
            ledger,
            client,
            launcher,
            holder=self._holder,
            most=config.most,
            free=self._has_room,
            watch=self._watch,
            records=records,
            fits=self._membership.may_start,
            worker=self._name,
            labels=config.labels,
            queues=tuple(config.queues),
            fill_slot=self._fill_slot,
            folders=config.folders,
        )
        self._upkeep = (self._renew, self._send_heartbeats, self._poll_cancellations)
        """Upkeep of active runs: leases, heartbeats and cancellations."""
        self.run_queue = RunQueue(
            client,
            config.pool,
            config.queues,
            self._dispatch,
            clock=ledger.clock,
        )
        self._free_slots = FreeSlots(
            ledger,
            client,
            self.run_queue,
            self._dispatcher,
            most=config.most,
            room=lambda: self._room() if self._may_hand_out() else None,
            active=lambda: sum(each.uses_slot for each in self._watched.values()),
        )
        self._dispatcher.may_get_slot = self._free_slots.may_get_one
        self._dispatcher.max_held = lambda: self.run_queue.max_held if self._may_hand_out() else 0
        self._dispatcher.may_hold = lambda: not self._draining
        self._dispatcher.may_start_elsewhere = self._membership.may_start_elsewhere
        self.keeper = Keeper(
            ledger,
            self._holder,
            supervised=lambda: frozenset(self._watched),
            read_overview=_read_overview,
        )

    async def run_until_cancelled(self) -> NoReturn:
        """Run until this task is cancelled; the caller has to call `shutdown` afterwards.

        Raise `LedgerNewer` if a newer program migrated the ledger so that this worker cannot use
        it, when its active runs have ended.
        """
        self._running = True
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.run_queue.hand_out())
                group.create_task(self.run_queue.poll())
                group.create_task(self._handle_leftovers())
                group.create_task(self.keeper.run())
                group.create_task(self._record_tools())
                group.create_task(self._membership.keep())
                group.create_task(self._free_slots.keep())
                group.create_task(self._end_if_outdated())
                if self._config.max_memory:
                    group.create_task(self._limit_memory())
                for work in self._upkeep:
                    group.create_task(work())
                if self._config.pool_id is not None:
                    group.create_task(listen(self._config.pool_id, self._on_event))
                self.run_queue.poll_soon()
        except ExceptionGroup as errors:
            if (newer := errors.subgroup(LedgerNewer)) is None:
                raise
            error: BaseException = newer
            while isinstance(error, BaseExceptionGroup):
                error = error.exceptions[0]
            raise error from None
        raise AssertionError("these tasks end only when they are cancelled")

    async def run_once(self) -> None:
        """Start the runs that are due now, and wait until they have ended."""
        async with self._keep_up():
            await self.run_queue.fetch()
            handing_out = asyncio.create_task(self.run_queue.hand_out())
            await asyncio.sleep(0)
            handing_out.cancel()
            self._dispatcher.end_parking(claims_all=True)
            await self.run_queue.wait_until_dispatched()
            await self._all_ended()
            await self._free_slots.wait()

    async def _limit_memory(self) -> NoReturn:
        """Stop this worker with SIGTERM if it uses too much memory and no run is active.

        Start no run while active runs end, but for at most `DRAIN_SECONDS`, so that no run becomes
        late. If runs are still active then, try again `DRAIN_PAUSE_SECONDS` later.
        """
        while True:
            await asyncio.sleep(MEMORY_CHECK_INTERVAL_SECONDS)
            used = proc.memory(os.getpid())
            if used <= self._config.max_memory:
                continue
            log.warning(
                "this worker uses %d MB; it stops when no run is active",
                used // 10**6,
                extra={"action": "too_much_memory"},
            )
            self._draining = True
            self._dispatcher.remembered.end_holds()
            try:
                async with asyncio.timeout(DRAIN_SECONDS):
                    await self.run_queue.wait_until_dispatched()
                    await self._all_ended()
            except TimeoutError:
                self._draining = False
                await self._fill_slot()
                await asyncio.sleep(DRAIN_PAUSE_SECONDS)
            else:
                self.used_too_much_memory = True
                os.kill(os.getpid(), signal.SIGTERM)

    async def _end_if_outdated(self) -> NoReturn:
        """Raise `LedgerNewer` if it happens and no run is active; start no run meanwhile."""
        try:
            await self._ledger.until_newer()
        except LedgerNewer as error:
            log.error("this worker ends: %s", error, extra={"action": "ledger_newer"})
            self._stopping = True
            self._dispatcher.end_parking()
            await self.run_queue.wait_until_dispatched()
            await self._all_ended()
            raise

    def _may_hand_out(self) -> bool:
        is_ending = self._stopping or self._draining or self._membership.is_draining
        return self._running and not is_ending

    def _has_room(self, flow_run_id: UUID | None = None) -> bool:
        """Return whether a flow run may start here, beside the runs that are about to claim."""
        if self._draining or self._stopping:
            return False
        return self._room() + (flow_run_id in self._dispatcher.handed_out) > 0

    def _room(self) -> float:
        """Return how many more runs the worker's limit allows, even if the worker drains."""
        if self._config.limit is None:
            return math.inf
        dispatcher = self._dispatcher
        at_work = len(self._watched) + dispatcher.starting + len(dispatcher.handed_out)
        return self._config.limit - at_work

    async def _dispatch(self, run: FlowRun) -> None:
        handed_out = self._dispatcher.handed_out
        was_woken = run.id in handed_out
        try:
            await self._dispatch_once(run)
        finally:
            if not self.run_queue.dispatches_again(run.id):
                handed_out.discard(run.id)
            if was_woken and str(run.id) not in self._watched and not self._stopping:
                self._free_slots.fill_soon()  # it did not start

    async def _dispatch_once(self, run: FlowRun) -> None:
        if str(run.id) in self._watched or self._stopping:
            return
        if await self._membership.is_for_others(run):
            return
        self._dispatching[str(run.id)] = False
        try:
            if await self._dispatcher.dispatch(run):
                return
            if not self._has_room() or not self._membership.may_start(run):
                self._free_slots.polls_next = True
            else:
                self._dispatcher.starting += 1
                try:
                    await external_runs.start(
                        self._dispatcher, self._client, run, self._configure, self._mark
                    )
                finally:
                    self._dispatcher.start_ended()
        finally:
            del self._dispatching[str(run.id)]

    @property
    def _mark(self) -> str:
        """Return the part before the pid in the `infrastructure_pid` of runs without a lease."""
        return f"{self._config.name}:{self._holder.split(':')[2]}"

    def _own_record(self) -> WorkerRecord:
        return membership.record_of(
            self._name,
            self._holder,
            limit=self._config.limit,
            queues=self._config.queues,
            labels=self._config.labels,
            clock_ahead=-self._ledger.skew(),
            started_at=self._started_at,
            now=self._ledger.now(),
        )

    def _watch(self, watched: SupervisedRun) -> None:
        self._watched[watched.flow_run_id] = watched
        if self._dispatching.get(watched.flow_run_id):
            self._may_be_cancelled.set()
        watched.on_release = self._released
        task = asyncio.create_task(self._supervise(watched))
        self._exits.add(task)
        task.add_done_callback(self._exits.discard)

    def _released(self) -> None:
        """Fill the slot of a run that has ended or waits, and whose process is still at work."""
        if self._has_room() and not self._stopping:
            self._free_slots.fill_soon()

    async def _supervise(self, watched: SupervisedRun) -> None:
        try:
            await watched.watch()
            if watched.is_in_ledger:
                await exit_handling.handle_exit(self._ledger, self._client, watched)
            else:
                # If Prefect stays unreachable for longer, `stale_runs.handle_stale_runs` sets the
                # state later, without the hooks.
                async with asyncio.timeout(EXTERNAL_END_TIMEOUT_SECONDS):
                    await external_runs.report_end(self._client, self._launcher, watched)
            self._log_tail(watched)
        except Exception:
            # A claimed run's lease will expire, and then the lease reaper decides the outcome.
            log.exception("cannot record the outcome of %s", watched.flow_run.name)
        finally:
            with suppress(OSError):
                watched.running.output.unlink()
            del self._watched[watched.flow_run_id]
            await self._fill_slot()

    def _log_tail(self, watched: SupervisedRun) -> None:
        if watched.exit_code == 0 and watched.cause is None:
            return
        tail = watched.tail()
        if tail:
            is_error = watched.cause is not StopCause.CANCEL  # a person has requested it
            logger = flow_run_logger(watched.flow_run)
            level = logging.ERROR if is_error else logging.INFO
            logger.log(level, "Last lines of the process output:\n%s", tail)

    async def _fill_slot(self) -> None:
        if not self._stopping:
            await self._free_slots.fill()

    async def _on_event(self, flow_run_id: str, state: str) -> None:
        if state in SCHEDULED_STATE_NAMES:
            if state != "Late":
                self._dispatcher.remembered.end_hold(flow_run_id)
            self.run_queue.poll_soon()
            return
        self._dispatcher.remembered.forget(flow_run_id)
        if state in {"Cancelling", "Cancelled"}:
            if flow_run_id in self._dispatching:
                self._dispatching[flow_run_id] = True
            if flow_run_id in self._watched:
                self._may_be_cancelled.set()
        if state in ENDED_STATE_NAMES and flow_run_id not in self._watched:
            await self._log_errors(ended_runs.record_end(self._ledger, self._client, flow_run_id))

    async def _send_heartbeats(self) -> NoReturn:
        """Send the worker's heartbeats to Prefect, and read the pool's settings."""
        while True:
            await asyncio.sleep(self._config.heartbeat)
            await self._log_errors(self._sync())

    async def _renew(self) -> NoReturn:
        """Renew the leases of supervised runs, and stop the runs that have lost theirs.

        Also stop runs with `on_lost: rerun` before their leases expire, if the leases cannot be
        renewed. If this process was suspended or late, try to renew the leases first. But if the
        leases may have expired, stop these runs at once: another process may already repeat them.
        """
        while True:
            await asyncio.sleep(TIMING.lease_check.total_seconds())
            claimed = {id_: each for id_, each in self._watched.items() if each.is_in_ledger}
            if not claimed:
                self._renewed = time.monotonic()
                continue
            since = time.monotonic() - self._renewed
            if since < TIMING.run_lease_renewal.total_seconds():
                continue
            reruns = [each for each in claimed.values() if each.policy.on_lost == "rerun"]
            if since >= TIMING.run_lease.total_seconds():
                _stop_lost(reruns)
            left = max(TIMING.rerun_stop - timedelta(seconds=since), TIMING.lease_check)
            timer = asyncio.get_running_loop().call_later(left.total_seconds(), _stop_lost, reruns)
            try:
                run_ids = {id_: each.run_id for id_, each in claimed.items()}
                statuses = await leases.renew_all(self._ledger, self._holder, run_ids)
            except Exception as error:
                # After any error, the next turn tries again, while the leases are still valid.
                log.warning("cannot renew leases: %s", error, extra={"action": "not_renewed"})
                if time.monotonic() - self._renewed >= TIMING.rerun_stop.total_seconds():
                    _stop_lost(reruns)
                continue
            finally:
                timer.cancel()
            self._renewed = time.monotonic()
            for id_, watched in claimed.items():
                watched.renewed(statuses.get(id_))

    async def _handle_leftovers(self) -> NoReturn:
        while True:
            await self._log_errors(self._release_ended())
            await self._log_errors(
                stale_runs.handle_stale_runs(
                    self._ledger,
                    self._client,
                    self._config.pool,
                    self._mark,
                    supervised=lambda: self._watched.keys() | self._dispatching.keys(),
                )
            )
            await asyncio.sleep(TIMING.leftover_check.total_seconds())

    async def _release_ended(self) -> None:
        """Release the runs of workers that have ended, and give their slots to waiting runs."""
        if self._config.holders is None:
            return
        released = await lease_reaper.release_ended(
            self._ledger, self._client, self._config.holders
        )
        if released:
            log.info(
                "runs of workers that have ended: %d wait again, %d ended",
                released.waiting,
                released.ended,
                extra={"action": "released_ended"},
            )
            await self._fill_slot()

    async def _stop_cancelled(self) -> None:
        """Stop the runs that Prefect cancels or has cancelled."""
        if not self._watched:
            return
        stopping = [StateType.CANCELLING, StateType.CANCELLED]
        runs = await self._client.read_flow_runs(
            flow_run_filter=FlowRunFilter(
                id=FlowRunFilterId(any_=[UUID(each) for each in self._watched]),
                state=FlowRunFilterState(type=FlowRunFilterStateType(any_=stopping)),
            ),
        )
        for run in runs:
            watched = self._watched.get(str(run.id))
            # The process of a skipped run has set this state itself, and is ending.
            if watched is not None and states.is_being_cancelled(run.state):
                watched.stop(StopCause.CANCEL)

    async def _log_errors(self, work: Coroutine[Any, Any, Any]) -> None:
        """Await ``work``; log an error instead of raising it, as the caller tries again later."""
        try:
            await work
        except (Unreachable, httpx.HTTPError) as error:
            log.warning("%s", error)
        except Exception:
            log.exception("a background task of the worker failed")

    def force_stop(self) -> None:
        """Make `shutdown` end active runs at once instead of waiting for them."""
        self._force_stop.set()

    async def shutdown(self) -> None:
        """Start no more runs; wait for active runs, then end the rest and record their outcomes."""
        self._stopping = True
        self._dispatcher.end_parking()
        async with self._keep_up():
            await self.run_queue.wait_until_dispatched()
            if self._exits:
                limit = TIMING.shutdown_wait.total_seconds()
                log.info("waiting up to %g s for %d active runs", limit, len(self._watched))
                forced = asyncio.create_task(self._force_stop.wait())
                done = asyncio.create_task(self._all_ended())
                await asyncio.wait(
                    {done, forced}, timeout=limit, return_when=asyncio.FIRST_COMPLETED
                )
                forced.cancel()
                done.cancel()
            for watched in list(self._watched.values()):
                watched.stop(StopCause.SHUTDOWN)
            await self._all_ended()

    @asynccontextmanager
    async def _keep_up(self) -> AsyncIterator[None]:
        """Continue the upkeep of active runs while no new run starts."""
        tasks = [asyncio.create_task(work()) for work in self._upkeep]
        try:
            yield
        finally:
            await cancel_all(*tasks, *self._free_slots.tasks)

    async def _poll_cancellations(self) -> NoReturn:
        while True:
            self._may_be_cancelled.clear()
            await self._log_errors(self._stop_cancelled())
            with suppress(TimeoutError):
                async with asyncio.timeout(TIMING.cancel_check.total_seconds()):
                    await self._may_be_cancelled.wait()

    async def _record_tools(self) -> NoReturn:
        try:
            while True:
                recording = worker_tools.record(self._ledger, self._config.name)
                await self._log_errors(recording)
                await asyncio.sleep(TIMING.server_interval.total_seconds())
        finally:
            with suppress(TimeoutError, LedgerUnreachable):
                async with asyncio.timeout(5.0):
                    await worker_tools.forget(self._ledger, self._config.name)

    async def _all_ended(self) -> None:
        while self._exits:
            await asyncio.wait(self._exits)


async def _read_overview() -> Overview:
    from daybook.diagnosis import status  # needed only in the worker that leads

    return await status.overview()


def _stop_lost(runs: Iterable[SupervisedRun]) -> None:
    for each in runs:
        each.stop(StopCause.LOST)


_PREFIX = "prefect.flow-run."
SCHEDULED_STATE_NAMES = frozenset(
    ("Scheduled", "AwaitingConcurrencySlot", "AwaitingRetry", "Late", "Resuming")
)
"""Names of the Prefect states in which a run is scheduled."""
ENDED_STATE_NAMES = {"Completed", "Failed", "Crashed", "Cancelled", "Cancelling", "TimedOut"}
"""Names of Prefect's own states in which a run has ended or is being cancelled."""


async def listen(pool_id: UUID, on_change: Callable[[str, str], Awaitable[None]]) -> NoReturn:
    """Call ``on_change`` for each state change of a run in the pool, until cancelled.

    The arguments are the flow run's id and the name of its new state.
    """
    pool_events = EventFilter(
        event=EventNameFilter(prefix=[_PREFIX]),
        any_resource=EventAnyResourceFilter(id=[f"prefect.work-pool.{pool_id}"]),
    )

    async def changed(event: Event) -> None:
        flow_run_id = event.resource.id.removeprefix(_PREFIX)
        await on_change(flow_run_id, event.event.removeprefix(_PREFIX))

    await event_stream.listen(pool_events, changed)
    raise AssertionError("the stream ends only when it is cancelled")
