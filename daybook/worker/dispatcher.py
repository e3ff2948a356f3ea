"""Dispatch of a due flow run: claim it, propose Pending to Prefect, start its process.

::

    claim ─► Start ─► Pending ─► a process with the fencing token ─► supervised
      ├─► Suspend  held, or scheduled again in Prefect, no process
      └─► ShowEnd  set to the state of the recorded outcome, or to skipped, if another Prefect run
                   executes the occurrence

`daybook.execution.claim_effects` derives these effects from the answer to the claim.

The worker claims before it proposes Pending (promise 2), so a run that has to wait needs no
process. A run that belongs to no Daybook job starts without a claim, with the settings of its work
pool and deployment.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

import httpx
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun, State, StateDetails
from prefect.client.schemas.responses import OrchestrationResult, SetStateStatus
from prefect.exceptions import ObjectNotFound
from prefect.states import Pending

from daybook import home
from daybook.errors import (
    DiskFull,
    FenceRefused,
    IllegalTransition,
    InvalidInput,
    LedgerNewer,
    UnreadableJob,
)
from daybook.execution import claim
from daybook.execution.claim_effects import (
    Effect,
    ReadRetries,
    ShowEnd,
    Start,
    Suspend,
    WakeEarlier,
    Worker,
)
from daybook.json_text import JsonObject
from daybook.ledger.engine import Ledger
from daybook.prefect import (
    ended_runs,
    occurrence,
    reconcile,
)
from daybook.runs import claim_requests, claims, waiting_runs
from daybook.runs.claim_requests import ClaimRequest, Granted, Waiting
from daybook.timing import TIMING
from daybook.worker.claim_lock import FirstInOrderLock
from daybook.worker.launcher import Launcher
from daybook.worker.messages import LaunchRequest, ProcessSpec
from daybook.worker.prefect_updates import (
    MAX_CONCURRENT_RESCHEDULES,
    UNAVAILABLE_ERRORS,
    UPDATE_FAILED,
    PrefectUpdates,
)
from daybook.worker.remembered_runs import HoldEnd, RememberedRuns
from daybook.worker.run_queue import claim_order, may_be_missed, may_park, scheduled_at
from daybook.worker.supervision import SupervisedRun

log = logging.getLogger(__name__)

GIVE_BACK_DELAY = timedelta(seconds=1)
UNREADABLE_JOB_DELAY = timedelta(minutes=5)
"""Time until the next claim of a run whose job cannot be read; many such runs may accumulate."""
FULL_PAUSE_SECONDS = 1.0
"""Time after a claim that found all slots of the ledger in use, in which no parked run claims."""
KNOWN_AFTER = timedelta(seconds=2)
"""Time for which a run is due in Prefect before a worker looks for its wait (`_known_wait`).

So a run that is claimed at its due time needs no query more.
"""
OLD_SECONDS = 1.0
"""Time of a wait for the turn to claim after which the poll's answer about a run is old."""
START_PAUSE_SECONDS = 2.0
"""Time without a start after which the worker has nothing to start."""
ResolveProcessSpec = Callable[[FlowRun], Awaitable[ProcessSpec]]
"""Function that returns a flow run's process settings, from the work pool and the deployment."""
GetRecords = Callable[[], dict[str, JsonObject]]
"""Function that returns the records of Prefect that the process of each job's run needs."""


async def always(run: FlowRun) -> bool:
    return True


def no_records() -> dict[str, JsonObject]:
    """Return no records, so that the run's process asks Prefect for them."""
    return {}


class Dispatcher:
    """Dispatcher of one worker's flow runs.

    ``holder`` names the worker in its leases; ``most`` is the maximum number of active runs in the
    ledger. ``free`` returns whether the worker has room for a flow run. The dispatcher calls
    ``watch`` with each started process. It calls ``fill_slot`` when a run has to wait although a
    slot is free, so that the runs that were due earlier claim at once. ``worker``, ``labels`` and
    ``queues`` are the worker's name, its labels, and the queues that it serves (empty: all);
    ``fits`` returns whether it may start a run with them.
    ``folders`` are the folders in which Daybook stores data. ``records`` returns the records of
    Prefect that each run needs.
    """

    def __init__(
        self,
        ledger: Ledger,
        client: PrefectClient,
        launcher: Launcher,
        *,
        holder: str,
        most: int,
        free: Callable[[UUID], bool],
        watch: Callable[[SupervisedRun], None],
        records: GetRecords = no_records,
        fits: Callable[[FlowRun], bool] = lambda _: True,
        worker: str = "",
        labels: tuple[str, ...] = (),
        queues: tuple[str, ...] = (),
        fill_slot: Callable[[], Coroutine[Any, Any, None]] | None = None,
        folders: Collection[Path] = (),
    ) -> None:
        self._ledger, self._client, self._launcher = ledger, client, launcher
        self._holder, self._max_active, self._free, self._watch = holder, most, free, watch
        self._fill_slot, self._folders, self._records = fill_slot, folders, records
        self._fits = fits
        self._worker, self._labels, self._queues = worker, labels, queues
        # One claim at a time, in `claim_order`, because SQLite grants its own lock in no particular
        # order.
        self._claim_lock = FirstInOrderLock(self._may_unpark)
        self._judging = asyncio.Lock()  # many reads at once would delay claims and leases
        self.remembered = RememberedRuns()
        self._showing = set[str]()  # runs that were held, until they are rescheduled in Prefect
        self._started_at = self._full_until = float("-inf")
        self._parks, self._claims_all = True, False
        self.may_get_slot: Callable[[], bool] = lambda: True
        """Function that returns whether a run may get a slot now, as far as this worker knows."""
        self.max_held: Callable[[], int] = lambda: 0
        """Function that returns how many runs this worker may hold."""
        self.may_hold: Callable[[], bool] = lambda: True
        """Function that returns whether runs may be held that others have claimed in vain."""
        self.may_start_elsewhere: Callable[[FlowRun], Awaitable[bool]] = always
        """Function that returns whether another worker may start a run."""
        self.starting = 0
        """Number of runs that have a slot but are not supervised yet."""
        self.handed_out = set[UUID]()
        """Woken runs until their claims have ended; the worker keeps room for them."""
        self.updates = PrefectUpdates(ledger, client, self.handed_out)

    async def dispatch(self, run: FlowRun) -> bool:
        """Claim the run; then start its process, or reschedule or end the run in Prefect.

        If the ledger, Prefect, the settings or the job cannot be used, reschedule the run. Also
        reschedule it while one of ``folders`` is on a full disk. Active runs need the rest of the
        space for their records, and a new run could not record anything.

        Return False for an external run, which belongs to no job (see `start`). Ignore a run of
        another ledger. If a newer program migrated the ledger, leave the run to a newer worker.
        """
        if occurrence.belongs_to_other_ledger(run, self._ledger.id):
            return True  # that ledger's own worker fetches it
        try:
            while (is_own := await self._claim_and_start(run)) is None:
                continue
            return is_own
        except LedgerNewer as error:
            log.warning("%s is left to a newer worker: %s", run.name, error)
            return True
        except (InvalidInput, *UNAVAILABLE_ERRORS) as error:
            # No ledger, no effect (promise 7): the run has no claim, so reschedule it. An invalid
            # setting, or a job whose due times cannot be computed, may be repaired meanwhile.
            log.warning("%s waits: %s", run.name, error, extra={"action": "waits_for_ledger"})
            is_unreadable = isinstance(error, UnreadableJob)
            delay = UNREADABLE_JOB_DELAY if is_unreadable else claim.NO_LEDGER_DELAY
            answer = Waiting(self._ledger.now() + delay, str(error))
            self.handed_out.discard(run.id)  # it does not claim
            await self.updates.show_wait(run, answer)
            return True

    async def _claim_and_start(self, run: FlowRun) -> bool | None:
        """Claim the run, and perform the effects; return None to claim again, False if external."""
        # Await nothing else before this lock, so that runs get the lock in their order. Of two due
        # times of a job, the later must not start before the earlier is claimed, unless the earlier
        # is missed.
        self._records()  # read in the background what the process needs
        has_slot = run.id in self.handed_out
        was_waiting = self.remembered.forget(str(run.id)) or has_slot
        async with self._turn(run, was_waiting=was_waiting, has_slot=has_slot) as is_old:
            known = await self._known_wait(run)
            if known is None:
                if (full := home.full_disk(self._folders)) is not None:
                    raise DiskFull(str(full))
                request = await occurrence.build_claim_request(
                    self._ledger,
                    run,
                    dict(run.parameters),
                    holder=self._holder,
                    starts=run.run_count + 1,
                    most=self._max_active,
                    started=False,
                    client=self._client,
                )
                job_id = request.job_id
                if job_id is None and not claim_requests.is_session_request(request.occurrence):
                    return False
                effects = await self._claim(run, request)
        if known is not None:
            return await self._hold_known(run, known)
        may_be_retry = ReadRetries() in effects
        if may_be_retry and is_old and run.start_time is None and not self._claims_all:
            return True  # it has ended in the ledger since the poll; if not, the next poll shows it
        if may_be_retry and (retries := await occurrence.read_retry_starts(run, self._client)):
            request = replace(request, retries=retries)
            async with self._turn(run, was_waiting=was_waiting, has_slot=has_slot):
                effects = await self._claim(run, request)
        waiting: Waiting | None = None
        for effect in effects:
            match effect:
                case Start(granted):
                    try:
                        # Name the run before its process starts: the first log line has the name.
                        with suppress(TimeoutError):
                            async with self._part_of_lease(1 / 4):
                                await self.updates.name(run, job_id)
                        await self._start_claimed(run, granted, request.kind)
                    finally:
                        self.start_ended()
                case Suspend():
                    waiting = effect.waiting
                case WakeEarlier() if self._fill_slot is not None:
                    await self._fill_slot()
                case ShowEnd(end):
                    await self.updates.show_end(run, end, job_id)
        return waiting is None or await self._hold_or_show(run, waiting, job_id)

    @asynccontextmanager
    async def _turn(
        self, run: FlowRun, *, was_waiting: bool, has_slot: bool
    ) -> AsyncIterator[bool]:
        """Hold the lock of the claims while the block runs; yield whether it took `OLD_SECONDS`.

        A run that was missed while it waited for the lock waits again, as a late one. Otherwise,
        if more runs are due than can start, free slots wait until the missed ones are recorded.
        """
        began = time.monotonic()
        is_late, due = claim_order(run, self._ledger.now())
        is_judged = is_late or was_waiting
        while True:
            if not is_judged and may_be_missed(run, self._ledger.now()):
                async with self._judging:
                    is_late, is_judged = await occurrence.is_missed(self._ledger, run), True
            # While many runs of one due time claim for the first time, a free slot must not wait.
            order = (is_late and not was_waiting, due, not has_slot)
            parked = timedelta(0) if is_judged else may_park(run, self._ledger.now())
            turn = self._claim_lock.turn(order, park_seconds=parked.total_seconds())
            async with turn:
                if is_judged or not may_be_missed(run, self._ledger.now()):
                    yield time.monotonic() - began > OLD_SECONDS
                    return

    async def _known_wait(self, run: FlowRun) -> Waiting | None:
        """Return the wait for a slot that another claim has decided; None if the run has to claim.

        A run that this worker may start now has to claim, and so has one that is too many to hold.
        A run that only other workers may start is theirs until `workers.HANDOVER_INTERVAL` after
        the wait.
        """
        fits, now = self._fits(run), self._ledger.now()
        if self._claims_all or run.id in self.handed_out:
            return None
        if now - scheduled_at(run, now) < KNOWN_AFTER:
            return None
        is_too_many = self._parks and self.may_hold() and not self._may_hold_one()
        if fits and (self._may_start_now() or is_too_many):
            return None
        known = await waiting_runs.wait_for_slot(self._ledger, run.id, elsewhere=not fits)
        if known is None or (not fits and not await self.may_start_elsewhere(run)):
            return None
        return known

    async def _hold_known(self, run: FlowRun, known: Waiting) -> Literal[True] | None:
        """Hold a run until its `_known_wait` ends; return None if it has to claim again."""
        if self._fits(run):
            self.remembered.add(run, known.fence)
        if not self._parks or not self.may_hold():
            return True  # the next poll finds it
        left = (known.until - self._ledger.now()).total_seconds()
        end = await self.remembered.hold(str(run.id), left, is_own=False)
        return None if end is HoldEnd.DUE else True

    async def _hold_or_show(
        self, run: FlowRun, waiting: Waiting, job_id: str | None
    ) -> Literal[True] | None:
        """Hold the run if this worker starts others (`remembered_runs`); else show its wait.

        Return None if it has to claim again, because its wait has ended meanwhile. If the ledger is
        unreachable, leave the run as it is: another worker may have started it since the claim.
        """
        flow_run_id = str(run.id)
        if waiting.run_id is not None and self._fits(run):
            self.remembered.add(run, waiting.fence)
        is_remembered = waiting.for_slot and flow_run_id in self.remembered.ids
        try:
            if is_remembered and self._may_hold_one() and self._is_starting():
                left = (waiting.until - self._ledger.now()).total_seconds()
                end = await self.remembered.hold(flow_run_id, left)
                if end is HoldEnd.LEFT:
                    return True
                if end is HoldEnd.DUE:
                    still_waits = await waiting_runs.still_waits(self._ledger, waiting)
                    return None if still_waits else True
            await self.updates.show_wait(run, waiting, job_id)
        except UNAVAILABLE_ERRORS as error:
            log.warning("cannot reschedule %s: %s", run.name, error, extra=UPDATE_FAILED)
        finally:
            if flow_run_id in self._showing:
                self._showing.discard(flow_run_id)
                self.show_held()
        return True

    def show_held(self) -> None:
        """Show the waits of held runs in Prefect, some at a time, unless they may be held longer.

        They may while this worker starts runs, and as many as `max_held` says.
        """
        while len(self._showing) < MAX_CONCURRENT_RESCHEDULES:
            is_kept = self._is_starting() and self.remembered.held <= self.max_held()
            if is_kept or (flow_run_id := self.remembered.end_last_hold()) is None:
                return
            self._showing.add(flow_run_id)

    def _may_hold_one(self) -> bool:
        return self.remembered.held < self.max_held()

    def _may_unpark(self) -> bool:
        """Return whether a parked run may claim: it may get a slot, or no other run starts here."""
        return not self._is_starting() or self._may_start_now()

    def _may_start_now(self) -> bool:
        return self.may_get_slot() and time.monotonic() >= self._full_until

    def unpark(self) -> None:
        """Let parked runs claim, because this worker may start more runs than before."""
        self._full_until = float("-inf")
        self._claim_lock.unpark()

    def end_parking(self, *, claims_all: bool = False) -> None:
        """Park and hold no run any more; with ``claims_all``, claim also those that wait."""
        self._parks, self._claims_all = False, claims_all
        self._claim_lock.unpark()
        self.remembered.end_holds()

    def start_ended(self) -> None:
        """Count a run in `starting` no longer: it is supervised, or could not be started."""
        self.starting -= 1
        self._started_at = time.monotonic()
        self._claim_lock.unpark()  # if the run could not be started
        loop = asyncio.get_running_loop()
        loop.call_later(1.1 * START_PAUSE_SECONDS, self._after_start)

    def _after_start(self) -> None:
        """If no other run was started since, let parked runs claim, and show waits in Prefect."""
        self._claim_lock.unpark()
        self.show_held()

    def _is_starting(self) -> bool:
        if not self._parks:
            return False
        return self.starting > 0 or time.monotonic() - self._started_at < START_PAUSE_SECONDS

    def hand_out(self, run: FlowRun) -> None:
        """Keep room for a woken run until its claim has ended, and forget it: it is woken once."""
        self.remembered.forget(str(run.id))
        self.handed_out.add(run.id)

    async def _claim(self, run: FlowRun, request: ClaimRequest) -> Sequence[Effect]:
        """Claim the run, and count it in `starting` if it may start; return the effects to perform.

        The caller must hold the lock.
        """
        worker = Worker(str(run.id), run.start_time is not None, bool(request.retries))
        try:
            effects = await claim.decide(
                self._ledger,
                replace(
                    request,
                    full=not self._free(run.id),
                    worker=self._worker,
                    labels=self._labels,
                    queues=self._queues,
                    queue=run.work_queue_name or "",
                ),
                worker,
                deployment_id=str(run.deployment_id),
                made_by=str(run.created_by.id) if run.created_by else None,
            )
            self.starting += any(isinstance(effect, Start) for effect in effects)
            is_full = any(isinstance(each, Suspend) and each.waiting.is_full for each in effects)
            if is_full:
                self._full_until = time.monotonic() + FULL_PAUSE_SECONDS
                loop = asyncio.get_running_loop()
                loop.call_later(FULL_PAUSE_SECONDS, self._claim_lock.unpark)
        finally:
            self.handed_out.discard(run.id)
        return effects

    @staticmethod
    def _part_of_lease(part: float) -> asyncio.Timeout:
        """Return a timeout for a request about a claimed run without a process.

        Nothing renews its lease yet, and afterwards another worker may have executed the run.
        """
        return asyncio.timeout(part * TIMING.run_lease.total_seconds())

    async def _start_claimed(self, run: FlowRun, granted: Granted, kind: str) -> None:
        policy, is_deleted, why = granted.policy, False, "Prefect refused the start"
        try:
            async with self._part_of_lease(1 / 2):
                state = await self._propose_pending(run)
        except ObjectNotFound:
            state, is_deleted = None, True
        except TimeoutError:
            state, why = None, "Prefect did not answer in time"
        except httpx.HTTPError as error:
            state, why = None, str(error) or type(error).__name__
        if state is None:
            await self._give_back(run, granted, why, is_deleted=is_deleted)
            return
        handover = {
            "flow_run_id": str(run.id),
            "run_id": granted.run_id,
            "fence": granted.fence,
            "holder": self._holder,
            "skew_seconds": self._ledger.skew().total_seconds(),
        }
        task = LaunchRequest(
            flow_run=_json(run, state),
            mode="ours",
            kind=kind,
            handover=handover,
            known=self._records(),
        )
        try:
            running = await self._launcher.start(task)
        except OSError as error:
            await self._give_back(run, granted, f"cannot start a process: {error}")
            return
        watched = SupervisedRun(
            run,
            running,
            granted.run_id,
            self._holder,
            granted.fence,
            kind,
            policy,
        )
        if policy.deadline is not None:
            watched.set_deadline(granted.queued_at + policy.deadline - self._ledger.now())
        self._watch(watched)

    async def _propose_pending(self, run: FlowRun) -> State[Any] | None:
        """Propose Pending; return the accepted state, or None if Prefect does not accept it.

        Prefect refuses it for a cancelled run, or without a free slot of a concurrency limit. Raise
        `ObjectNotFound` if the run was deleted, and `httpx.HTTPError` if the request fails.
        """
        # Set the time, because Prefect otherwise copies it from the previous state. If that state
        # was just moved to a later time, the process would wait until then, as it would if this
        # machine's clock is ahead: use the ledger's.
        details = StateDetails.model_validate({"scheduled_time": self._ledger.now()})
        pending: State[Any] = Pending(state_details=details)
        result: OrchestrationResult[Any] = await self._client.set_flow_run_state(run.id, pending)
        return result.state if result.status is SetStateStatus.ACCEPT else None

    async def _give_back(
        self, run: FlowRun, granted: Granted, why: str, *, is_deleted: bool = False
    ) -> None:
        """Release the claim of a run that did not start; record its end if Prefect ended it.

        Prefect deletes the runs of a job that is paused or deleted there. The keeper would create
        a deleted run again, so reconcile its job before the next claim. Every other refusal says
        nothing about the job, and the next claim decides by the ledger, like any claim.

        The release is the first write, with the fencing token. If the claim was lost meanwhile, the
        ledger refuses the release, and the new holder decides the rest. The other writes change
        only a waiting run, so they must be later. If this process is killed before

        - the release: the lease ends, and the run waits again (promise 3);
        - the record of the end: the keeper records it before it schedules the run again;
        - the reconciliation: the keeper observes the job, at most some seconds later than its first
          attempt to create the run again. Until then, a claim does not know of the pause.
        """
        log.info("released the claim on %s: %s", run.name, why)
        until = self._ledger.now() + GIVE_BACK_DELAY
        try:
            await claims.postpone(self._ledger, granted.run_id, granted.fence, until, why)
            if not is_deleted:
                await ended_runs.record_end(self._ledger, self._client, str(run.id))
            elif granted.job is not None:
                await reconcile.compare(granted.job.id, str(run.deployment_id))
        except (FenceRefused, IllegalTransition, InvalidInput, *UNAVAILABLE_ERRORS) as error:
            log.warning("%s", error, extra={"action": "give_back_failed"})

    async def start(self, run: FlowRun, spec: ProcessSpec) -> SupervisedRun | None:
        """Start an external run with the settings ``spec``; return None if Prefect refuses it.

        Raise OSError if the process cannot be started, and `httpx.HTTPError`.
        """
        try:
            state = await self._propose_pending(run)
        except ObjectNotFound:
            return None
        if state is None:
            return None
        task = LaunchRequest(_json(run, state), mode="engine", **asdict(spec))
        watched = SupervisedRun(run, await self._launcher.start(task))
        self._watch(watched)
        return watched


def _json(run: FlowRun, state: State[Any]) -> JsonObject:
    return run.model_copy(update={"state": state}).model_dump(mode="json")
