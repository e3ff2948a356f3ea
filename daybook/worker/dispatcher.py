"""A flow run whose time has come: claimed, then proposed as Pending, then given a process.

::

    claim ─► granted ─► Pending ─► a process with the fence ─► watched        (promise.md 2)
      ├─► waiting    one request: scheduled again, no process
      ├─► ended      one request: the state that the outcome has
      └─► taken      another's

A run that is not of a job of ours is started without a claim, with what its work pool says.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import asdict, replace
from datetime import timedelta
from typing import Any

import httpx
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun, State, StateDetails
from prefect.client.schemas.responses import OrchestrationResult, SetStateStatus
from prefect.exceptions import ObjectNotFound
from prefect.states import Pending

from daybook.clock import SYSTEM
from daybook.errors import FenceRefused, IllegalTransition, LedgerNewer, Unreachable
from daybook.execution import claim
from daybook.jobs import policy as policies
from daybook.jobs import store
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Status
from daybook.ledger.tables import RunRow
from daybook.prefect import ended_runs, occurrence, run_names, states, unmirrored
from daybook.prefect.reconcile import Reconciliation
from daybook.runs import claims
from daybook.runs.claim_requests import Ended, Granted, Offer, Taken, Waiting
from daybook.worker.external_runs import How
from daybook.worker.launch import Launcher
from daybook.worker.messages import Task
from daybook.worker.run_queue import expected
from daybook.worker.supervision import Watched
from daybook.worker.turns import Turns

log = logging.getLogger(__name__)

NEAR = timedelta(seconds=1)
SETTING_BACK = 4
"""How many runs are set back in Prefect at a time: the requests of runs at work go first."""
REMEMBERED = 500
"""How many runs that wait a worker remembers, so that it can start them without asking Prefect."""
AWAY = (Unreachable, LedgerNewer, httpx.HTTPError)


class Taker:
    """``watch`` is called with each process that was started; ``free`` says whether this worker
    has a slot left. ``holder`` names the worker in its leases. ``call_up`` is called when a run has
    to wait although a slot is free: the runs that were due earlier have to claim at once.
    """

    def __init__(
        self,
        ledger: Ledger,
        client: PrefectClient,
        launcher: Launcher,
        *,
        holder: str,
        most: int,
        free: Callable[[], bool],
        watch: Callable[[Watched], None],
        call_up: Callable[[], Coroutine[Any, Any, None]] | None = None,
    ) -> None:
        self._ledger, self._client, self._launcher = ledger, client, launcher
        self._holder, self._most, self._free, self._watch = holder, most, free, watch
        self._call_up = call_up
        self._reconciler = Reconciliation()
        # One claim after the other, in the order in which they were due: SQLite's own waiting for
        # its lock keeps no order.
        self._claiming = Turns()
        self._setting_back = asyncio.Semaphore(SETTING_BACK)
        self._waiting: dict[str, tuple[int, FlowRun]] = {}
        self.starting = 0
        """How many runs have a slot and are not watched yet."""

    async def take(self, run: FlowRun) -> bool:
        """Carry the run as far as a process, or send it where it belongs.

        False if it is no run of a job of this ledger: `start` is for that.
        """
        if occurrence.belongs_elsewhere(run, self._ledger.id):
            return True  # its own worker will come for it
        try:
            return await self._ours(run)
        except AWAY as error:
            # No ledger, no effect (promise.md 7).
            log.warning("%s waits: %s", run.name, error, extra={"action": "ledger_away"})
            await self._set_back(run, Waiting(SYSTEM.now() + claim.NO_LEDGER_WAIT, str(error)))
            return True

    async def _ours(self, run: FlowRun) -> bool:
        # Nothing is awaited before this lock, so it is taken in the order in which they were due:
        # of two due times of one job the later one must not have begun before the earlier is asked.
        self._waiting.pop(str(run.id), None)
        async with self._claiming.turn(expected(run)):
            offer = await occurrence.offer(
                self._ledger,
                run,
                dict(run.parameters),
                self._reconciler,
                holder=self._holder,
                starts=run.run_count + 1,
                most=self._most,
                started=False,
            )
            if offer.job_id is None:
                return False
            answer = await self._decide(run, offer)
        its_own = isinstance(answer, Ended) and answer.flow_run_id == str(run.id)
        if its_own or (isinstance(answer, Ended) and run.start_time is not None):
            # It has ended, and is scheduled again: by somebody's Retry, or because Prefect was not
            # told yet. Prefect's own history knows. (Prefect writes a start time at each end.)
            retries = await occurrence.retries(run)
            if retries and not offer.retries:
                async with self._claiming.turn(expected(run)):
                    answer = await self._decide(run, replace(offer, retries=retries))
        match answer:
            case Granted():
                try:
                    await self._begin(run, answer, offer.kind)
                finally:
                    self.starting -= 1
            case Waiting():
                self._remember(run, answer)
                async with self._setting_back:
                    await self._set_back(run, answer)
                if answer.free and self._call_up is not None:
                    await self._call_up()
            case Ended():
                await self._tell(run, answer)
            case Taken() if answer.flow_run_id != str(run.id):
                await self._tell(run, claim.taken(answer))
        if not isinstance(answer, Granted):  # the process of a granted run names it
            await self._name(run, offer.job_id)
        return True

    def _remember(self, run: FlowRun, answer: Waiting) -> None:
        if answer.run_id is not None:
            self._waiting[str(run.id)] = answer.fence, run
            if len(self._waiting) > REMEMBERED:
                del self._waiting[next(iter(self._waiting))]

    def waiting(self, row: RunRow) -> FlowRun | None:
        """The Prefect run of ``row``, if this worker set it back and nobody has had it since."""
        fence, run = self._waiting.get(str(row.flow_run_id), (None, None))
        return run if fence == row.fence else None

    async def _name(self, run: FlowRun, job_id: str) -> None:
        """Name a run that was faster than the keeper; a failure changes nothing."""
        if run_names.is_ours(run.name):
            return
        try:
            async with self._ledger.read() as session:
                stored = await store.get(session, job_id)
            name = stored and run_names.of_new(stored, run, self._ledger.id)
            if name:
                await run_names.give(self._client, run, name)
        except AWAY as error:
            log.warning("%s is not named: %s", run.name, error, extra={"action": "name_failed"})

    async def _decide(self, run: FlowRun, offer: Offer) -> Granted | Waiting | Ended | Taken:
        """To be called under the lock."""
        answer = await claim.decide(
            self._ledger,
            replace(offer, full=not self._free()),
            self._reconciler,
            deployment_id=str(run.deployment_id),
            made_by=str(run.created_by.id) if run.created_by else None,
        )
        self.starting += isinstance(answer, Granted)
        return answer

    async def _begin(self, run: FlowRun, granted: Granted, kind: str) -> None:
        policy = policies.of_run(granted.parameters)
        try:
            state = await self._pending(run)
        except httpx.HTTPError as error:
            state, why = None, str(error) or type(error).__name__
        else:
            why = "Prefect did not let it start"
        if state is None:
            await self._give_back(run, granted, why)
            return
        handover = {"run_id": granted.run_id, "fence": granted.fence, "holder": self._holder}
        task = Task(
            flow_run=_json(run, state),
            mode="ours",
            kind=kind,
            handover={"flow_run_id": str(run.id), **handover},
        )
        try:
            running = await self._launcher.start(task)
        except OSError as error:
            await self._give_back(run, granted, f"no process could be started: {error}")
            return
        watched = Watched(
            run,
            running,
            granted.run_id,
            self._holder,
            policy=policy,
        )
        if policy.deadline is not None:
            watched.ends_in(granted.queued_at + policy.deadline - self._ledger.now())
        self._watch(watched)

    async def _pending(self, run: FlowRun) -> State[Any] | None:
        """The state as Prefect took it; None when it did not: deleted, cancelled, no slot."""
        # Its own time, or Prefect copies that of the state before: of a run that somebody moves
        # just now the process would wait for that.
        details = StateDetails.model_validate({"scheduled_time": SYSTEM.now()})
        pending: State[Any] = Pending(state_details=details)
        try:
            result: OrchestrationResult[Any] = await self._client.set_flow_run_state(
                run.id, pending
            )
        except ObjectNotFound:
            return None
        return result.state if result.status is SetStateStatus.ACCEPT else None

    async def _give_back(self, run: FlowRun, granted: Granted, why: str) -> None:
        """Nothing was begun. What Prefect did with the run meanwhile decides, as far as it does."""
        log.info("%s is given back: %s", run.name, why)
        until = self._ledger.now() + NEAR
        try:
            await claims.postpone(self._ledger, granted.run_id, granted.fence, until, why)
            if granted.job is not None:
                # Paused or deleted in Prefect, perhaps: the next claim is to know of it.
                await self._reconciler.compare(granted.job.id, str(run.deployment_id))
            await ended_runs.one(self._ledger, self._client, str(run.id))
        except (FenceRefused, IllegalTransition, *AWAY) as error:
            log.warning("%s", error, extra={"action": "give_back_failed"})

    async def _set_back(self, run: FlowRun, answer: Waiting) -> None:
        """Let the run wait in Prefect; one that waits there until then already is left alone."""
        at, state = run.next_scheduled_start_time, run.state
        waits = state is not None and state.name == states.WAITING
        # A worker whose clock is ahead of the ledger's would come again and again until then.
        ahead = -self._ledger.skew()
        until = answer.until + (ahead if ahead > timedelta(seconds=1) else timedelta(0))
        if waits and at is not None and abs(at.timestamp() - until.timestamp()) < 1:
            return
        if answer.run_id is None:
            await self._state(run, states.waiting(until, answer.why))
        elif await self._still_waits(answer):
            try:
                await ended_runs.let_wait(self._ledger, self._client, run, until, answer.why)
            except httpx.HTTPError as error:
                # It is still scheduled, and is taken again at the next poll.
                log.warning("Prefect was not told: %s", error, extra={"action": "tell_failed"})

    async def _still_waits(self, answer: Waiting) -> bool:
        """Return whether the row still waits as it was answered.

        If not, another claim came later, or the run was called up: then its state is not ours.
        """
        async with self._ledger.read() as session:
            row = await session.get(RunRow, answer.run_id)
        return row is not None and (row.state, row.until) == (Status.WAITING, answer.until)

    async def _tell(self, run: FlowRun, answer: Ended) -> None:
        """End the Prefect run as its occurrence has ended."""
        shown = claim.shown(answer, str(run.id))
        message = states.message(shown.status, shown.run_id, shown.error, shown.reason)
        state = states.state_of(shown.status, message)
        if await self._state(run, state) and answer.flow_run_id == str(run.id) and answer.run_id:
            await unmirrored.told(self._ledger, answer.run_id)

    async def _state(self, run: FlowRun, state: State[Any]) -> bool:
        try:
            await self._client.set_flow_run_state(run.id, state, force=True)
        except ObjectNotFound:
            return True  # deleted: there is nothing to tell
        except httpx.HTTPError as error:
            # It is still scheduled, and is taken again at the next poll.
            log.warning("Prefect was not told: %s", error, extra={"action": "tell_failed"})
            return False
        return True

    async def start(self, run: FlowRun, how: How) -> Watched | None:
        """Start a run that is not ours; ``how`` is what its pool wants."""
        state = await self._pending(run)
        if state is None:
            return None
        task = Task(_json(run, state), mode="engine", **asdict(how))
        watched = Watched(run, await self._launcher.start(task))
        self._watch(watched)
        return watched


def _json(run: FlowRun, state: State[Any]) -> dict[str, Any]:
    return run.model_copy(update={"state": state}).model_dump(mode="json")
