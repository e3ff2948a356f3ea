"""The keeper: runs the leader's services in loops, and the two services of every process.

`daybook status` (`passes`) and the log use the names in the second column.

::

    every process   renew the leadership, or try to acquire it           (`leadership`)
                    drain     `outcome_spool`: this home's spooled outcomes
                    server    `observer`: all processes must use the same Prefect server
    the leader      runs      drain ─► expire (`lease_reaper`) ─► ends (`ended_runs`)
                              ─► ensure, wake (`scheduled_runs`) ─► mirror (`state_mirror`)
                              ─► unread (`ended_runs`)                          every 5 s
                    jobs      blocks ─► observe ─► correct      every 10 s, sooner by an event;
                              later if they would use over 2 % of a core
                    naming    names new Prefect runs            every 10 s, later if it would
                              use over 2 % of a core
                    audit     after each observation, and every 10 s, whatever those cost
                    outbox    sends due messages        every second while one is due soon
                    listen    calls listeners               every 2 s if there are any
                    tasks     expires task leases, wakes sessions               every 15 s
                    alarm     overdue and long runs                             every 30 s
                    prune     `retention`                                       every hour

One cycle of a service is one idempotent function with a bounded amount of work, and has a timeout
here. A failing service stops no other: its error is logged, and its next cycle tries again. A
leader that does not reach Prefect releases the leadership for a while: another process may reach
it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any, NoReturn, TypeVar

import httpx
from prefect.client.orchestration import PrefectClient
from prefect.events import Event
from prefect.events.filters import EventFilter, EventNameFilter

from daybook.agents import documents
from daybook.errors import LeadershipLost, Unreachable
from daybook.execution import outcome_spool
from daybook.keeper import (
    alerts,
    auditor,
    blocks,
    deliveries,
    event_stream,
    leadership,
    lease_reaper,
    listeners,
    retention,
)
from daybook.keeper import observer as observe
from daybook.keeper.budget import CpuBudget
from daybook.keeper.cost import MeteredCoroutine
from daybook.keeper.leadership import Leadership
from daybook.ledger.engine import Ledger
from daybook.prefect import corrections, ended_runs, run_names, scheduled_runs, state_mirror
from daybook.resources import mirror as block_mirror
from daybook.tasks import model, notifier
from daybook.tasks.scheduler import Cycle, Scheduler
from daybook.timing import TIMING

log = logging.getLogger(__name__)

T = TypeVar("T")

PRUNE_INTERVAL_SECONDS = 3600.0
CYCLE_TIMEOUT_SECONDS = 120.0
"""Timeout of one cycle; its writes up to then persist."""
PREFECT_TIMEOUT_SECONDS = 90.0
"""How long Prefect may not answer before the leader releases the leadership."""
REACQUIRE_DELAY_SECONDS = 2 * TIMING.leader_check.total_seconds()
"""How long this process does not acquire it again, so that another can."""
_EDITS = EventFilter(
    event=EventNameFilter(
        name=[f"prefect.deployment.{done}" for done in ("created", "updated", "deleted")]
    )
)


@dataclass
class CycleCost:
    """The last cycle of a service: its end (ledger time), its cost, its error (empty for none)."""

    at: datetime
    seconds: float
    cpu_seconds: float
    requests: int
    error: str = ""

    def as_json(self) -> dict[str, Any]:
        return {
            "at": self.at.isoformat(),
            "seconds": round(self.seconds, 3),
            "cpu_seconds": round(self.cpu_seconds, 4),
            "requests": self.requests,
            "error": self.error,
        }


@dataclass
class _Term:
    """State of one term of leadership; a new term starts with nothing."""

    fence: int
    ends_read: datetime | None = None
    copied: block_mirror.ComparisonCache = field(default_factory=block_mirror.ComparisonCache)
    observer: observe.Observer = field(default_factory=observe.Observer)
    observed: dict[str, datetime] = field(default_factory=dict)
    observed_at: datetime | None = None
    audited: auditor.AuditorState = field(default_factory=auditor.AuditorState)
    corrected: corrections.CorrectionState = field(default_factory=corrections.CorrectionState)
    named: run_names.NamingState = field(default_factory=run_names.NamingState)
    unshown: deliveries.DeliveriesState = field(default_factory=deliveries.DeliveriesState)
    watched: alerts.AlertState = field(default_factory=alerts.AlertState)
    heard: listeners.ListenersState = field(default_factory=listeners.ListenersState)

    def known(self) -> dict[str, datetime]:
        """Return up to when each job is known from Prefect: its edits, and the ends of its runs.

        A run that was cancelled ahead in Prefect while no keeper led must not be caught up.
        """
        read_to = self.ends_read
        if read_to is None:
            return {}
        return {job_id: min(at, read_to) for job_id, at in self.observed.items()}


class Keeper:
    """The keeper of one process. ``holder`` is the process's name, which no later process has.

    ``supervised`` returns the flow runs whose processes this process supervises; the supervision's
    findings about them take precedence over the keeper's.
    """

    def __init__(
        self,
        ledger: Ledger,
        holder: str,
        *,
        supervised: Callable[[], Collection[str]] = tuple,
    ) -> None:
        self._ledger, self._supervised = ledger, supervised
        self.leadership = Leadership(ledger, holder, note=self._note)
        self.costs: dict[str, CycleCost] = {}
        self._term = _Term(0)
        self._edited, self._observed = asyncio.Event(), asyncio.Event()

    async def run(self) -> NoReturn:
        """Run until cancelled, then release the leadership."""
        try:
            async with (
                leadership.leader_client(self.leadership) as client,
                asyncio.TaskGroup() as group,
            ):
                group.create_task(self.leadership.keep())
                group.create_task(self._drain())
                group.create_task(self._record_server(client))
                group.create_task(self._runs(client))
                group.create_task(self._jobs(client))
                group.create_task(self._name_runs(client))
                group.create_task(self._audit())
                group.create_task(self._outbox(client))
                group.create_task(self._call_listeners())
                group.create_task(self._tasks(client))
                group.create_task(self._alert())
                group.create_task(self._prune())
                group.create_task(event_stream.listen(_EDITS, self._wake_jobs))
        finally:
            with suppress(TimeoutError):
                async with asyncio.timeout(5.0):
                    await self.leadership.release()
                    await observe.forget(self._ledger, self.leadership.holder)
        raise AssertionError("its tasks end by cancelling only")

    # --- the loops

    async def _drain(self) -> NoReturn:
        while True:
            await self._turn("drain", outcome_spool.drain(self._ledger))
            await asyncio.sleep(TIMING.runs_interval.total_seconds())

    async def _record_server(self, client: PrefectClient) -> NoReturn:
        reported = ""
        while True:
            conflict = await self._turn(
                "server", observe.record(self._ledger, client, self.leadership.holder)
            )
            if conflict is not None:
                if conflict and conflict != reported:
                    log.warning("%s", conflict, extra={"action": "two_prefect_servers"})
                reported = conflict
            await asyncio.sleep(observe.RECORD_INTERVAL_SECONDS)

    async def _runs(self, client: PrefectClient) -> NoReturn:
        while True:
            term = await self._leading()
            await self._over_runs(client, term)
            await asyncio.sleep(TIMING.runs_interval.total_seconds())

    async def _over_runs(self, client: PrefectClient, term: _Term) -> None:
        ledger = self._ledger
        # First: a run whose outcome is spooled must not be judged unknown.
        await self._turn("drain", outcome_spool.drain(ledger))
        await self._turn("expire", lease_reaper.expire(ledger, client))
        supervised = self._supervised()
        ended = await self._turn(
            "ends", ended_runs.record_live_ends(ledger, client, supervised=supervised)
        )
        if ended is not None:
            await self._turn(
                "ensure", scheduled_runs.ensure_all(ledger, client, supervised=supervised)
            )
            await self._turn("wake", scheduled_runs.wake_for_idle_slots(ledger, client))
            await self._turn("mirror", state_mirror.mirror(ledger, client))
            # Last: after a long absence there may be much to read, and nothing here waits for it.
            reading = ended_runs.record_unread_ends(ledger, client, supervised=self._supervised())
            term.ends_read = await self._turn("unread", reading) or term.ends_read
        # A long reading counts as an answer too, and `unread` sends a request in every cycle.
        if time.monotonic() - self.leadership.last_answer_at > PREFECT_TIMEOUT_SECONDS:
            self.leadership.last_answer_at = time.monotonic()
            log.warning("Prefect is not heard of: the lead is given back")
            await self.leadership.release(rest=REACQUIRE_DELAY_SECONDS)

    async def _jobs(self, client: PrefectClient) -> NoReturn:
        budget = CpuBudget()
        while True:
            term = await self._leading()
            self._edited.clear()
            first = term.observed_at is None
            await self._over_jobs(client, term)
            if not first:  # the first observation of a term is not charged
                names = ("blocks", "observe", "correct")
                budget.spend(sum(self.costs[each].cpu_seconds for each in names))
            pause = max(TIMING.min_pass_interval.total_seconds(), budget.wait())
            await asyncio.sleep(pause)
            with suppress(TimeoutError):
                async with asyncio.timeout(TIMING.jobs_interval.total_seconds() - pause):
                    await self._edited.wait()

    async def _over_jobs(self, client: PrefectClient, term: _Term) -> None:
        ledger = self._ledger
        # First: a job whose deployment is recreated needs its agent and its secrets.
        await self._turn("blocks", blocks.reconcile_blocks(ledger, client, term.copied))
        observation = await self._turn("observe", term.observer.observe(ledger, client))
        if observation is not None:
            term.observed_at = observation.began
            term.observed |= dict.fromkeys(observation.jobs, observation.began)
            self._observed.set()
        await self._turn("correct", corrections.correct(ledger, client, term.corrected))

    async def _name_runs(self, client: PrefectClient) -> NoReturn:
        budget = CpuBudget()
        while True:
            term = await self._leading()
            await self._turn("naming", run_names.name_runs(self._ledger, client, term.named))
            budget.spend(self.costs["naming"].cpu_seconds)
            await asyncio.sleep(max(TIMING.jobs_interval.total_seconds(), budget.wait()))

    async def _audit(self) -> NoReturn:
        while True:
            term = await self._leading()
            self._observed.clear()
            work = auditor.audit(self._ledger, term.known(), memory=term.audited)
            done = await self._turn("audit", work)
            if done is not None and done.left:
                await asyncio.sleep(TIMING.runs_interval.total_seconds())
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(TIMING.jobs_interval.total_seconds()):
                    await self._observed.wait()

    async def _outbox(self, client: PrefectClient) -> NoReturn:
        while True:
            term = await self._leading()
            work = deliveries.send_due(self._ledger, client, self.leadership.holder, term.unshown)
            pause = await self._turn("outbox", work)
            await asyncio.sleep(TIMING.runs_interval.total_seconds() if pause is None else pause)

    async def _call_listeners(self) -> NoReturn:
        while True:
            term = await self._leading()
            pause = await self._turn(
                "listen", listeners.call_listeners(self._ledger, self.leadership.holder, term.heard)
            )
            await asyncio.sleep(TIMING.runs_interval.total_seconds() if pause is None else pause)

    async def _tasks(self, client: PrefectClient) -> None:
        async def turn(cycle: Cycle) -> None:
            await self._leading()
            await self._turn("tasks", cycle())

        scheduler = Scheduler(
            self._ledger,
            policy=model.load_policy,
            notifier=notifier.prefect_notifier(client),  # the client checks the leadership first
            capabilities_of=partial(documents.capabilities, client),
        )
        try:
            await scheduler.run(turn)
        finally:
            scheduler.stop()

    async def _alert(self) -> NoReturn:
        while True:
            term = await self._leading()
            await self._turn("alarm", alerts.queue_alerts(self._ledger, term.watched))
            await asyncio.sleep(TIMING.alert_interval.total_seconds())

    async def _prune(self) -> NoReturn:
        while True:
            await self._leading()
            done = await self._turn("prune", retention.prune(self._ledger))
            await asyncio.sleep(
                TIMING.jobs_interval.total_seconds()
                if done is not None and done.left
                else PRUNE_INTERVAL_SECONDS
            )

    async def _wake_jobs(self, event: Event) -> None:
        self._edited.set()

    async def _leading(self) -> _Term:
        fence = await self.leadership.wait_until_leading()
        if self._term.fence != fence:
            self._term, self.leadership.last_answer_at = _Term(fence), time.monotonic()
        return self._term

    # --- one cycle

    async def _turn(self, name: str, work: Coroutine[Any, Any, T]) -> T | None:
        """Run one cycle and record its cost; return None if it failed, which is logged."""
        started, request_count, error = time.monotonic(), [0], ""
        metered, token = MeteredCoroutine(work), leadership.request_count.set(request_count)
        try:
            async with asyncio.timeout(CYCLE_TIMEOUT_SECONDS):
                return await metered
        except LeadershipLost as lost:
            error = str(lost)
            log.info("%s: %s", name, lost, extra={"action": "pass_lost"})
        except (Unreachable, httpx.HTTPError) as unreachable:
            error = str(unreachable) or type(unreachable).__name__
            log.warning("%s: %s", name, error, extra={"action": "pass_failed"})
        except TimeoutError:
            error = f"ended after {CYCLE_TIMEOUT_SECONDS:g} s"
            log.warning("%s: %s", name, error, extra={"action": "pass_failed"})
        except Exception as failure:
            error = repr(failure)
            log.exception("%s failed", name, extra={"action": "pass_failed"})
        finally:
            leadership.request_count.reset(token)
            seconds = time.monotonic() - started
            self.costs[name] = CycleCost(
                self._ledger.now(), seconds, metered.seconds, request_count[0], error
            )
            log.debug(
                "%s: %.3f s, %.3f s of CPU, %d requests",
                name,
                seconds,
                metered.seconds,
                request_count[0],
                extra={"action": "pass"},
            )
        return None

    def _note(self) -> dict[str, Any]:
        """Return what `daybook status` shows of this leader."""
        at = self._term.observed_at
        return {
            "observed_at": None if at is None else at.isoformat(),
            "passes": {name: cost.as_json() for name, cost in self.costs.items()},
        }
