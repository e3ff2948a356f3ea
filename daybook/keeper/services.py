"""The keeper: the leader's passes, each again and again; beside them what every process does.

::

    every process   keep the lead, or look whether it is free            (`keeper.lead`)
                    drain     what lies in this home's spool
                    server    its Prefect server is recorded: all have to use the same one
    the leader      runs      drain ─► expire ─► ends ─► ensure ─► wake         every 5 s
                              ─► mirror ─► unread (ends)
                    jobs      blocks ─► observe ─► correct      every 10 s, sooner by an event;
                              later where they would use over 2 % of a core
                    naming    new Prefect runs get their names  every 10 s, later where that would
                              use over 2 % of a core
                    audit     after each observation, and every 10 s, whatever those cost
                    outbox    what is due is sent       every second while something is due soon
                    listen    listeners are told            every 2 s where there are any
                    tasks     leases end, sessions are woken         every 15 s
                    alarm     what is overdue, or long at work, is told         every 30 s
                    prune                                                       every hour

Each pass is one function, idempotent and bounded in what it does; here it is also bounded in time.
What stops one stops no other: it is told, and its next turn tries again. A leader that does not
reach Prefect gives the lead back for a while: another may reach it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NoReturn, TypeVar

import httpx
from prefect.client.orchestration import PrefectClient
from prefect.events import Event
from prefect.events.filters import EventFilter, EventNameFilter

from daybook.errors import LeadLost, Unreachable
from daybook.execution import outcome_spool
from daybook.keeper import (
    alerts,
    auditor,
    blocks,
    deliveries,
    event_stream,
    leader,
    lease_reaper,
    listeners,
    retention,
    server_record,
    tasks,
)
from daybook.keeper import observer as observe
from daybook.keeper.budget import Budget
from daybook.keeper.cost import Metered
from daybook.keeper.leader import Lead
from daybook.ledger.engine import Ledger
from daybook.prefect import corrections, ended_runs, run_naming, scheduled_runs, state_mirror
from daybook.resources import mirror as block_mirror
from daybook.tasks.scheduler import Cycle
from daybook.timing import TIMING

log = logging.getLogger(__name__)

T = TypeVar("T")

PRUNE = 3600.0
LONGEST = 120.0
"""Seconds after which a pass is ended; what it did stays done."""
UNHEARD = 90.0
"""Seconds for which Prefect has not answered when the lead is given back."""
REST = 2 * TIMING.leader_check.total_seconds()
"""Seconds in which another may take it."""
_EDITS = EventFilter(
    event=EventNameFilter(
        name=[f"prefect.deployment.{done}" for done in ("created", "updated", "deleted")]
    )
)


@dataclass
class Cost:
    """The last turn of a pass: when it ended (the ledger's time), what it took, how it failed."""

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
    """What a leader remembers from pass to pass; another leadership begins with nothing."""

    fence: int
    ends_read: datetime | None = None
    copied: block_mirror.Memory = field(default_factory=block_mirror.Memory)
    observer: observe.Observer = field(default_factory=observe.Observer)
    observed: dict[str, datetime] = field(default_factory=dict)
    observed_at: datetime | None = None
    audited: auditor.Memory = field(default_factory=auditor.Memory)
    corrected: corrections.Memory = field(default_factory=corrections.Memory)
    named: run_naming.Memory = field(default_factory=run_naming.Memory)
    unshown: deliveries.Memory = field(default_factory=deliveries.Memory)
    watched: alerts.Memory = field(default_factory=alerts.Memory)
    heard: listeners.Memory = field(default_factory=listeners.Memory)

    def known(self) -> dict[str, datetime]:
        """Up to when Prefect is known, of each job: its edits, and the ends of its runs.

        One that was cancelled ahead there, while nobody led, is not to be made up for.
        """
        read_to = self.ends_read
        if read_to is None:
            return {}
        return {job_id: min(at, read_to) for job_id, at in self.observed.items()}


class Keeper:
    """The keeper of one process. ``holder`` is the process's name, of this life alone.

    ``supervised`` are the flow runs whose processes it watches: what it sees of them comes first.
    """

    def __init__(
        self,
        ledger: Ledger,
        holder: str,
        *,
        supervised: Callable[[], Collection[str]] = tuple,
    ) -> None:
        self._ledger, self._supervised = ledger, supervised
        self.lead = Lead(ledger, holder, note=self._note)
        self.costs: dict[str, Cost] = {}
        self._term = _Term(0)
        self._edited, self._observed = asyncio.Event(), asyncio.Event()

    async def go_on(self) -> NoReturn:
        """Until cancelled; then the lead is given back."""
        try:
            async with leader.client_of(self.lead) as client, asyncio.TaskGroup() as group:
                group.create_task(self.lead.keep())
                group.create_task(self._drain())
                group.create_task(self._server(client))
                group.create_task(self._runs(client))
                group.create_task(self._jobs(client))
                group.create_task(self._naming(client))
                group.create_task(self._audit())
                group.create_task(self._outbox(client))
                group.create_task(self._listen())
                group.create_task(self._tasks(client))
                group.create_task(self._alarm())
                group.create_task(self._prune())
                group.create_task(event_stream.listen(_EDITS, self._hear))
        finally:
            with suppress(TimeoutError):
                async with asyncio.timeout(5.0):
                    await self.lead.release()
                    await server_record.forget(self._ledger, self.lead.holder)
        raise AssertionError("its tasks end by cancelling only")

    # --- the loops

    async def _drain(self) -> NoReturn:
        while True:
            await self._turn("drain", outcome_spool.drain(self._ledger))
            await asyncio.sleep(TIMING.runs_pass.total_seconds())

    async def _server(self, client: PrefectClient) -> NoReturn:
        told = ""
        while True:
            found = await self._turn(
                "server", server_record.record(self._ledger, client, self.lead.holder)
            )
            if found is not None:
                if found and found != told:
                    log.warning("%s", found, extra={"action": "two_prefect_servers"})
                told = found
            await asyncio.sleep(server_record.RECORD_EVERY)

    async def _runs(self, client: PrefectClient) -> NoReturn:
        while True:
            term = await self._leading()
            await self._over_runs(client, term)
            await asyncio.sleep(TIMING.runs_pass.total_seconds())

    async def _over_runs(self, client: PrefectClient, term: _Term) -> None:
        ledger = self._ledger
        # First: what is known of a run must not be judged unknown.
        await self._turn("drain", outcome_spool.drain(ledger))
        await self._turn("expire", lease_reaper.expire(ledger, client))
        supervised = self._supervised()
        ended = await self._turn("ends", ended_runs.live(ledger, client, supervised=supervised))
        if ended is not None:
            await self._turn("ensure", scheduled_runs.ensure(ledger, client, supervised=supervised))
            await self._turn("wake", scheduled_runs.idle_slots(ledger, client))
            await self._turn("mirror", state_mirror.mirror(ledger, client))
            # Last: of a long absence there may be much to read, and nobody waits for it here.
            reading = ended_runs.unread(ledger, client, supervised=self._supervised())
            term.ends_read = await self._turn("unread", reading) or term.ends_read
        # One that reads on is heard, and `unread` asks at every turn.
        if time.monotonic() - self.lead.heard_at > UNHEARD:
            self.lead.heard_at = time.monotonic()
            log.warning("Prefect is not heard of: the lead is given back")
            await self.lead.release(rest=REST)

    async def _jobs(self, client: PrefectClient) -> NoReturn:
        budget = Budget()
        while True:
            term = await self._leading()
            self._edited.clear()
            first = term.observed_at is None
            await self._over_jobs(client, term)
            if not first:  # that one is the price of the lead
                passes = ("blocks", "observe", "correct")
                budget.spend(sum(self.costs[each].cpu_seconds for each in passes))
            owed = max(TIMING.soonest_pass.total_seconds(), budget.wait())
            await asyncio.sleep(owed)
            with suppress(TimeoutError):
                async with asyncio.timeout(TIMING.jobs_pass.total_seconds() - owed):
                    await self._edited.wait()

    async def _over_jobs(self, client: PrefectClient, term: _Term) -> None:
        ledger = self._ledger
        # First: a job whose deployment is made again finds its agent and its secrets.
        await self._turn("blocks", blocks.blocks(ledger, client, term.copied))
        seen = await self._turn("observe", term.observer.look(ledger, client))
        if seen is not None:
            term.observed_at = seen.began
            term.observed |= dict.fromkeys(seen.jobs, seen.began)
            self._observed.set()
        await self._turn("correct", corrections.correct(ledger, client, term.corrected))

    async def _naming(self, client: PrefectClient) -> NoReturn:
        budget = Budget()
        while True:
            term = await self._leading()
            await self._turn("naming", run_naming.name_runs(self._ledger, client, term.named))
            budget.spend(self.costs["naming"].cpu_seconds)
            await asyncio.sleep(max(TIMING.jobs_pass.total_seconds(), budget.wait()))

    async def _audit(self) -> NoReturn:
        while True:
            term = await self._leading()
            self._observed.clear()
            work = auditor.audit(self._ledger, term.known(), memory=term.audited)
            done = await self._turn("audit", work)
            if done is not None and done.left:
                await asyncio.sleep(TIMING.runs_pass.total_seconds())
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(TIMING.jobs_pass.total_seconds()):
                    await self._observed.wait()

    async def _outbox(self, client: PrefectClient) -> NoReturn:
        while True:
            term = await self._leading()
            work = deliveries.drain(self._ledger, client, self.lead.holder, term.unshown)
            pause = await self._turn("outbox", work)
            await asyncio.sleep(TIMING.runs_pass.total_seconds() if pause is None else pause)

    async def _listen(self) -> NoReturn:
        while True:
            term = await self._leading()
            pause = await self._turn(
                "listen", listeners.listen(self._ledger, self.lead.holder, term.heard)
            )
            await asyncio.sleep(TIMING.runs_pass.total_seconds() if pause is None else pause)

    async def _tasks(self, client: PrefectClient) -> None:
        async def turn(cycle: Cycle) -> None:
            await self._leading()
            await self._turn("tasks", cycle())

        scheduler = tasks.scheduler(self._ledger, client)
        try:
            await scheduler.go_on(turn)
        finally:
            scheduler.stop()

    async def _alarm(self) -> NoReturn:
        while True:
            term = await self._leading()
            await self._turn("alarm", alerts.alarm(self._ledger, term.watched))
            await asyncio.sleep(TIMING.alert_pass.total_seconds())

    async def _prune(self) -> NoReturn:
        while True:
            await self._leading()
            done = await self._turn("prune", retention.prune(self._ledger))
            await asyncio.sleep(
                TIMING.jobs_pass.total_seconds() if done is not None and done.left else PRUNE
            )

    async def _hear(self, event: Event) -> None:
        self._edited.set()

    async def _leading(self) -> _Term:
        fence = await self.lead.led()
        if self._term.fence != fence:
            self._term, self.lead.heard_at = _Term(fence), time.monotonic()
        return self._term

    # --- one pass

    async def _turn(self, name: str, work: Coroutine[Any, Any, T]) -> T | None:
        """Do one pass and write down what it cost; None when it failed, which is told."""
        began, counted, error = time.monotonic(), [0], ""
        metered, told = Metered(work), leader.requests.set(counted)
        try:
            async with asyncio.timeout(LONGEST):
                return await metered
        except LeadLost as lost:
            error = str(lost)
            log.info("%s: %s", name, lost, extra={"action": "pass_lost"})
        except (Unreachable, httpx.HTTPError) as away:
            error = str(away) or type(away).__name__
            log.warning("%s: %s", name, error, extra={"action": "pass_failed"})
        except TimeoutError:
            error = f"ended after {LONGEST:g} s"
            log.warning("%s: %s", name, error, extra={"action": "pass_failed"})
        except Exception as wrong:
            error = repr(wrong)
            log.exception("%s failed", name, extra={"action": "pass_failed"})
        finally:
            leader.requests.reset(told)
            seconds = time.monotonic() - began
            self.costs[name] = Cost(self._ledger.now(), seconds, metered.seconds, counted[0], error)
            log.debug(
                "%s: %.3f s, %.3f s of CPU, %d requests",
                name,
                seconds,
                metered.seconds,
                counted[0],
                extra={"action": "pass"},
            )
        return None

    def _note(self) -> dict[str, Any]:
        """What `daybook status` shows of this leader."""
        at = self._term.observed_at
        return {
            "observed_at": None if at is None else at.isoformat(),
            "passes": {name: cost.as_json() for name, cost in self.costs.items()},
        }
