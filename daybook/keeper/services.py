"""The keeper: leader election, and the table of background services (`LOOPS`).

Each worker process runs a keeper, and so does `daybook keeper`. One keeper leads and runs all
loops; the others stand by and run only the loops with `everywhere`. The docstring of
`daybook.keeper` explains how to add a service.

One cycle of a service is one call of a function that can be repeated and does a bounded amount of
work; this module sets its timeout. A failing service stops no other loop: the keeper logs the
error, and the next cycle tries again. A leader that does not reach Prefect releases the leadership
for a while, because another process may reach Prefect.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum
from functools import partial
from typing import Any, NoReturn

import httpx
from prefect.client.orchestration import PrefectClient
from prefect.events import Event
from prefect.events.filters import EventFilter, EventNameFilter

from daybook.agents import documents
from daybook.backups import create as backups
from daybook.errors import LeadershipLost, LedgerUnreachable, Unreachable
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
    observer,
    overview,
    retention,
)
from daybook.keeper.cost import CpuBudget, CycleCost, MeteredCoroutine
from daybook.keeper.leadership import Leadership
from daybook.ledger.engine import Ledger
from daybook.prefect import (
    corrections,
    ended_runs,
    instances,
    run_names,
    scheduled_runs,
    state_mirror,
    work_queues,
)
from daybook.prefect.fingerprints import Fingerprints
from daybook.resources import mirror as block_mirror
from daybook.runs import counts, disabled_jobs
from daybook.tasks import notifier, policy
from daybook.tasks.scheduler import Scheduler
from daybook.timing import TIMING

log = logging.getLogger(__name__)

CYCLE_TIMEOUT_SECONDS = 120.0
"""Default timeout of one cycle; the writes that the cycle made before the timeout persist."""
BACKUP_TIMEOUT_SECONDS = 3600.0
"""Timeout of a nightly backup, which copies the whole ledger."""
PREFECT_TIMEOUT_SECONDS = 90.0
"""Time without an answer from Prefect after which the leader releases the leadership."""
IDLE_NAMING_FACTOR = 3
"""Factor by which the pause is longer after a cycle that found no run to name."""
REACQUIRE_DELAY_SECONDS = 2 * TIMING.leader_check.total_seconds()
"""How long a process waits after it released the leadership before it competes again."""
_EDITS = EventFilter(
    event=EventNameFilter(
        name=[f"prefect.deployment.{done}" for done in ("created", "updated", "deleted")]
    )
)


class Signal(Enum):
    """Signals that end the pause of a loop early."""

    EDITED = "a deployment was edited in Prefect"
    OBSERVED = "an observation was completed"


@dataclass
class Context:
    """Data that the services of one process share, and their state in one term of leadership.

    ``fence`` is the fencing token of the term; it is None in the context of the loops with
    `everywhere`.
    """

    ledger: Ledger
    client: PrefectClient
    holder: str
    supervised: Callable[[], Collection[str]]
    scheduler: Scheduler
    signals: dict[Signal, asyncio.Event]
    fence: int | None = None
    read_overview: overview.ReadOverview = overview.read_nothing
    reported_conflict: str = ""
    excluded: Collection[str] = ()
    ends_read: datetime | None = None
    copied: block_mirror.ComparisonCache = field(default_factory=block_mirror.ComparisonCache)
    queues: work_queues.QueuesState = field(default_factory=work_queues.QueuesState)
    seen: Fingerprints = field(default_factory=Fingerprints)
    observed: dict[str, datetime] = field(default_factory=dict)
    observed_at: datetime | None = None
    audited: auditor.AuditorState = field(default_factory=auditor.AuditorState)
    corrected: corrections.CorrectionState = field(default_factory=corrections.CorrectionState)
    named: run_names.NamingState = field(default_factory=run_names.NamingState)
    unshown: deliveries.DeliveriesState = field(default_factory=deliveries.DeliveriesState)
    watched: alerts.AlertState = field(default_factory=alerts.AlertState)
    shown: overview.TablesState = field(default_factory=overview.TablesState)
    heard: listeners.ListenersState = field(default_factory=listeners.ListenersState)

    def known(self) -> dict[str, datetime]:
        """Return, by job id, the instant up to which the ledger has Prefect's edits and ends.

        The result is empty until this term has read the ends of runs. The ends matter, because the
        auditor must not catch up a run that was cancelled in Prefect in advance, while no keeper
        was the leader.
        """
        read_to = self.ends_read
        if read_to is None:
            return {}
        return {job_id: min(at, read_to) for job_id, at in self.observed.items()}


# --- the table of services


@dataclass(frozen=True)
class Service:
    """A background service. ``name`` is its name in the log and in `daybook status` (`passes`).

    ``run`` runs one cycle. If it returns a `float`, the next cycle starts after that many seconds
    instead of the loop's interval. If a cycle of a ``required`` service fails or returns False, the
    later services of the loop wait for the next cycle. ``timeout`` is in seconds; None stands for
    `CYCLE_TIMEOUT_SECONDS`.
    """

    name: str
    does: str
    run: Callable[[Context], Coroutine[Any, Any, object]]
    required: bool = False
    timeout: float | None = None


@dataclass(frozen=True, kw_only=True)
class Loop:
    """Services that run one after another, with a pause of ``interval`` after each cycle.

    ``signal`` ends the pause early, but not before ``min_pause``. ``charged`` returns whether a
    cycle is charged to the loop's CPU budget, which may extend the pause. The loop with
    ``checks_prefect`` releases the leadership if Prefect does not answer. A loop with
    ``everywhere`` runs in every process, without leadership.
    """

    interval: Callable[[], timedelta]
    services: tuple[Service, ...]
    signal: Signal | None = None
    min_pause: Callable[[], timedelta] = timedelta
    charged: Callable[[Context], bool] | None = None
    checks_prefect: bool = False
    everywhere: bool = False


async def _record_server(context: Context) -> None:
    conflict = await instances.record_server(context.ledger, context.client, context.holder)
    if conflict and conflict != context.reported_conflict:
        log.warning("%s", conflict, extra={"action": "two_prefect_servers"})
    context.reported_conflict = conflict


async def _has_open_runs(context: Context) -> bool:
    async with context.ledger.read() as session:
        return await counts.has_open_runs(session)


async def _record_ends(context: Context) -> None:
    # `ensure` uses the same set, because it must not change a run that `ends` left to the run's
    # supervisor.
    context.excluded = context.supervised()
    await ended_runs.record_live_ends(context.ledger, context.client, supervised=context.excluded)


async def _read_ends(context: Context) -> None:
    context.ends_read = await ended_runs.record_unread_ends(
        context.ledger, context.client, supervised=context.supervised()
    )


async def _observe(context: Context) -> None:
    found = await observer.observe(context.ledger, context.client, context.seen)
    context.observed_at = found.began
    context.observed |= dict.fromkeys(found.jobs, found.began)
    context.signals[Signal.OBSERVED].set()


async def _name_runs(context: Context) -> float | None:
    sent = await run_names.name_runs(context.ledger, context.client, context.named)
    # Prefect's scheduler inserts runs every minute.
    return None if sent else IDLE_NAMING_FACTOR * TIMING.jobs_interval.total_seconds()


async def _audit(context: Context) -> float | None:
    report = await auditor.audit(context.ledger, context.known(), memory=context.audited)
    return TIMING.runs_interval.total_seconds() if report.left else None


async def _prune(context: Context) -> float | None:
    report = await retention.prune(context.ledger)
    return TIMING.jobs_interval.total_seconds() if report.left else None


async def _schedule_tasks(context: Context) -> float:
    await context.scheduler.cycle()
    return context.scheduler.interval.total_seconds()


async def _ping(context: Context) -> None:
    if context.observed_at is not None:  # otherwise this leader has not read Prefect yet
        await alerts.ping(context.watched, context.read_overview)


_DRAIN = Service(
    "drain",
    "records the outcomes that this home spooled while the ledger was unreachable",
    lambda context: outcome_spool.drain(context.ledger),
)

RUNS = Loop(
    interval=lambda: TIMING.runs_interval,
    checks_prefect=True,
    services=(
        _DRAIN,  # first, so that no run with a spooled outcome becomes unknown
        # An idle home needs one query instead of eight.
        Service(
            "open",
            "checks whether any run is live or not shown in Prefect yet, so that the next services "
            "have work",
            _has_open_runs,
            required=True,
        ),
        Service(
            "expire",
            "expires lost leases and passed deadlines",
            lambda context: lease_reaper.expire(context.ledger, context.client),
        ),
        Service(
            "skip",
            "skips waiting runs whose jobs are disabled",
            lambda context: disabled_jobs.skip_all(context.ledger),
        ),
        Service(
            "ends",
            "records live runs that have ended in Prefect",
            _record_ends,
            required=True,
        ),
        Service(
            "ensure",
            "gives each waiting run one scheduled Prefect run",
            lambda context: scheduled_runs.ensure_all(
                context.ledger, context.client, supervised=context.excluded
            ),
        ),
        Service(
            "wake",
            "starts waiting runs when slots are free",
            lambda context: scheduled_runs.wake_for_idle_slots(context.ledger, context.client),
        ),
        Service(
            "mirror",
            "shows the outcomes of finished runs in Prefect",
            lambda context: state_mirror.mirror(context.ledger, context.client),
        ),
    ),
)

JOBS = Loop(
    interval=lambda: TIMING.jobs_interval,
    signal=Signal.EDITED,
    min_pause=lambda: TIMING.min_pass_interval,
    # The first observation of a term, which reads everything, is not charged.
    charged=lambda context: context.observed_at is not None,
    services=(
        # First, because a job whose deployment is created again needs its agent and its secrets.
        Service(
            "blocks",
            "copies Prefect's block documents to the ledger, and restores lost ones",
            lambda context: blocks.reconcile_blocks(context.ledger, context.client, context.copied),
        ),
        # Before the observer, because a deployment would create its queue without a priority.
        Service(
            "queues",
            "keeps a work queue for each class of jobs in Prefect",
            lambda context: work_queues.ensure(context.client, context.queues),
        ),
        Service("observe", "imports edits made in Prefect", _observe),
        Service(
            "correct",
            "corrects the due times that Prefect computes wrongly",
            lambda context: corrections.correct(context.ledger, context.client, context.corrected),
        ),
    ),
)

# `unread` has a loop of its own, because there may be much to read after a long absence. A longer
# interval is enough, because Prefect also reports the ends of runs with events.
ENDS = Loop(
    interval=lambda: TIMING.jobs_interval,
    services=(Service("unread", "records other runs that have ended in Prefect", _read_ends),),
)

LOOPS = (
    Loop(everywhere=True, interval=lambda: TIMING.runs_interval, services=(_DRAIN,)),
    Loop(
        everywhere=True,
        interval=lambda: TIMING.server_interval,
        services=(
            Service("server", "records the Prefect server that this process uses", _record_server),
        ),
    ),
    RUNS,
    ENDS,
    JOBS,
    Loop(
        interval=lambda: TIMING.jobs_interval,
        charged=lambda context: True,
        services=(Service("naming", "names new Prefect runs", _name_runs),),
    ),
    Loop(
        interval=lambda: TIMING.jobs_interval,
        signal=Signal.OBSERVED,
        services=(Service("audit", "makes sure that each past due time has a row", _audit),),
    ),
    Loop(
        interval=lambda: TIMING.delivery_interval,
        services=(
            Service(
                "outbox",
                "sends due callbacks and messages",
                lambda context: deliveries.send_due(
                    context.ledger, context.client, context.holder, context.unshown
                ),
            ),
        ),
    ),
    Loop(
        interval=lambda: TIMING.listener_interval,
        services=(
            Service(
                "listen",
                "calls listeners with outcomes",
                lambda context: listeners.call_listeners(
                    context.ledger, context.holder, context.heard
                ),
            ),
        ),
    ),
    Loop(
        interval=lambda: policy.DEFAULTS.interval,
        services=(
            Service(
                "tasks",
                "expires leases of tasks, and wakes task sessions",
                _schedule_tasks,
            ),
        ),
    ),
    Loop(
        interval=lambda: TIMING.alert_interval,
        services=(
            Service(
                "alarm",
                "queues alerts about overdue runs, and notes about long ones",
                lambda context: alerts.queue_alerts(context.ledger, context.watched),
                required=True,
            ),
            Service("ping", "requests the operator's URL while all findings are clear", _ping),
        ),
    ),
    Loop(
        interval=lambda: TIMING.tables_interval,
        charged=lambda context: True,
        services=(
            Service(
                "tables",
                "shows what is due next, and what needs attention, as tables in Prefect",
                lambda context: overview.show_tables(
                    context.ledger, context.client, context.read_overview, context.shown
                ),
            ),
        ),
    ),
    Loop(
        interval=lambda: TIMING.retention_interval,
        services=(
            Service("prune", "deletes rows that the retention settings no longer keep", _prune),
        ),
    ),
    Loop(
        interval=lambda: TIMING.backup_interval,
        services=(
            Service(
                "backup",
                "makes the nightly backup, if a folder for it is set",
                lambda context: backups.create_nightly(context.ledger),
                timeout=BACKUP_TIMEOUT_SECONDS,
            ),
        ),
    ),
)
"""All loops of a keeper. They run concurrently."""


# --- the keeper


class Keeper:
    """Keeper of one process. ``holder`` is the process's unique name (`leadership.new_holder`).

    ``supervised`` returns the ids of the flow runs whose processes this process supervises. The
    supervisor records the ends of these runs, so the keeper does not. ``read_overview`` returns the
    findings of `daybook status` for the ping and the tables; a package above this one provides it.
    """

    def __init__(
        self,
        ledger: Ledger,
        holder: str,
        *,
        supervised: Callable[[], Collection[str]] = tuple,
        read_overview: overview.ReadOverview = overview.read_nothing,
    ) -> None:
        self._ledger, self._supervised = ledger, supervised
        self._read_overview = read_overview
        self.leadership = Leadership(ledger, holder, note=self._note)
        self.costs: dict[str, CycleCost] = {}
        self._signals = {each: asyncio.Event() for each in Signal}
        self._term: Context | None = None

    async def run(self) -> NoReturn:
        """Run until this task is cancelled.

        Then release the leadership, and delete the record of this process's Prefect server.
        """
        try:
            async with (
                leadership.leader_client(self.leadership) as client,
                asyncio.TaskGroup() as group,
            ):
                process = self.context(client)
                group.create_task(self.leadership.keep())
                for loop in LOOPS:
                    group.create_task(self._repeat(loop, process))
                group.create_task(event_stream.listen(_EDITS, self._on_edit))
        finally:
            with suppress(TimeoutError, LedgerUnreachable):
                async with asyncio.timeout(5.0):
                    await self.leadership.release()
                    await instances.forget(self._ledger, self.leadership.holder)
        raise AssertionError("its tasks end only when they are cancelled")

    def context(self, client: PrefectClient) -> Context:
        """Return the context of the loops that run in every process."""
        scheduler = Scheduler(
            self._ledger,
            policy=policy.load_policy,
            notifier=notifier.prefect_notifier(client),  # the client checks the leadership first
            capabilities_of=partial(documents.capabilities, client),
        )
        return Context(
            self._ledger,
            client,
            self.leadership.holder,
            self._supervised,
            scheduler,
            self._signals,
            read_overview=self._read_overview,
        )

    async def _on_edit(self, event: Event) -> None:
        self._signals[Signal.EDITED].set()

    async def _repeat(self, loop: Loop, process: Context) -> NoReturn:
        budget = CpuBudget()
        signal = self._signals[loop.signal] if loop.signal else asyncio.Event()
        while True:
            context = process if loop.everywhere else await self.leading(process)
            signal.clear()
            charged = loop.charged is not None and loop.charged(context)
            pause = await self.cycle(loop, context)
            if charged:
                budget.spend(sum(self.costs[each.name].cpu_seconds for each in loop.services))
            if pause is not None:
                await asyncio.sleep(pause)
                continue
            pause = max(loop.min_pause().total_seconds(), budget.wait())
            await asyncio.sleep(pause)
            with suppress(TimeoutError):
                async with asyncio.timeout(loop.interval().total_seconds() - pause):
                    await signal.wait()

    async def leading(self, process: Context) -> Context:
        """Wait until this process leads; return the context of the term."""
        fence = await self.leadership.wait_until_leading()
        if self._term is None or self._term.fence != fence:
            self.leadership.last_answer_at = time.monotonic()
            self._term = Context(
                process.ledger,
                process.client,
                process.holder,
                process.supervised,
                process.scheduler,
                process.signals,
                fence,
                process.read_overview,
            )
        return self._term

    async def cycle(self, loop: Loop, context: Context) -> float | None:
        """Run the services of a loop; return the seconds until its next cycle.

        None stands for the loop's interval. After a failure, the next cycle starts at the earliest
        after `Timing.runs_interval`. If the loop checks Prefect, and Prefect has not answered for
        `PREFECT_TIMEOUT_SECONDS`, release the leadership.
        """
        pause: float | None = None
        for service in loop.services:
            succeeded, result = await self._run(service, context)
            if isinstance(result, float):
                pause = result
            if not succeeded and loop.interval() < TIMING.runs_interval:
                pause = TIMING.runs_interval.total_seconds()
            if service.required and (not succeeded or result is False):
                break
        # Even a slow answer counts, and `unread` sends a request every ten seconds.
        answered = self.leadership.last_answer_at
        if loop.checks_prefect and time.monotonic() - answered > PREFECT_TIMEOUT_SECONDS:
            self.leadership.last_answer_at = time.monotonic()
            log.warning("Prefect does not answer: releasing leadership")
            await self.leadership.release(rest=REACQUIRE_DELAY_SECONDS)
        return pause

    async def _run(self, service: Service, context: Context) -> tuple[bool, object]:
        """Run one cycle of a service; return whether it succeeded, and the service's result.

        Record the cost of the cycle. Log a failure instead of raising it.
        """
        name, started, request_count, error = service.name, time.monotonic(), [0], ""
        timeout = CYCLE_TIMEOUT_SECONDS if service.timeout is None else service.timeout
        metered = MeteredCoroutine(service.run(context))
        token = leadership.request_count.set(request_count)
        try:
            async with asyncio.timeout(timeout):
                return True, await metered
        except LeadershipLost as lost:
            error = str(lost)
            log.info("%s: %s", name, lost, extra={"action": "pass_lost"})
        except (Unreachable, httpx.HTTPError) as unreachable:
            error = str(unreachable) or type(unreachable).__name__
            log.warning("%s: %s", name, error, extra={"action": "pass_failed"})
        except TimeoutError:
            error = f"timed out after {timeout:g} s"
            log.warning("%s: %s", name, error, extra={"action": "pass_failed"})
        except Exception as failure:
            error = repr(failure)
            log.exception("%s failed", name, extra={"action": "pass_failed"})
        finally:
            leadership.request_count.reset(token)
            seconds = time.monotonic() - started
            self.costs[name] = CycleCost(
                at=self._ledger.now(),
                seconds=seconds,
                cpu_seconds=metered.seconds,
                requests=request_count[0],
                error=error,
            )
            log.debug(
                "%s: %.3f s, %.3f s of CPU, %d requests",
                name,
                seconds,
                metered.seconds,
                request_count[0],
                extra={"action": "pass"},
            )
        return False, None

    def _note(self) -> dict[str, Any]:
        """Return the data about this leader that `daybook status` shows."""
        at = self._term.observed_at if self._term else None
        return {
            "observed_at": None if at is None else at.isoformat(),
            "passes": {name: cost.model_dump(mode="json") for name, cost in self.costs.items()},
        }
