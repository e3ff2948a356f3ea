"""The table of the keeper's background services (`LOOPS`).

The docstring of `daybook.keeper` explains how to add a service. One cycle of a service is one call
of a function that can be repeated and does a bounded amount of work. `daybook.keeper.keeper`
repeats the cycles, and stops each at its timeout.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum
from typing import Any

from prefect.client.orchestration import PrefectClient

from daybook.backups import create as backups
from daybook.execution import outcome_spool
from daybook.keeper import (
    alerts,
    auditor,
    blocks,
    deliveries,
    lease_reaper,
    listeners,
    observer,
    overview,
    retention,
)
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
from daybook.tasks import policy
from daybook.tasks.scheduler import Scheduler
from daybook.timing import TIMING

log = logging.getLogger(__name__)

CYCLE_TIMEOUT_SECONDS = 120.0
"""Default timeout of one cycle; the writes that the cycle made before the timeout persist."""
BACKUP_TIMEOUT_SECONDS = 3600.0
"""Timeout of a nightly backup, which copies the whole ledger."""
IDLE_NAMING_FACTOR = 3
"""Factor by which the pause is longer after a cycle that found no run to name."""


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
