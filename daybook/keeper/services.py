"""The table of the keeper's background services (`LOOPS`).

The docstring of `daybook.keeper` explains how to add a service. One cycle of a service is one call
of a function that can be repeated and does a bounded amount of work. `daybook.keeper.keeper`
repeats the cycles, and stops each at its timeout.

Each service has its own state, which `Service.start` creates; services share only the state in
`Term`::

    state                                  lasts for
    -------------------------------------  ------------------------------------------------------
    of a service of the leader; `Term`     a term of leadership, because another leader may change
                                           the ledger and Prefect before the next term
    of a service with `everywhere`         the process
    the signals of the context             the process

After a loss of the state, for example by `kill -9`, the services read the ledger and Prefect again.
Only the delivery results that Prefect did not show yet stay unshown.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import Any

from prefect.client.orchestration import PrefectClient

from daybook.execution import outcome_spool
from daybook.feature import Feature, features, leaving_out
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
from daybook.keeper.term import Context, ExcludedRuns, ImportProgress, Signal, Term
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
from daybook.resources.mirror import ComparisonCache
from daybook.runs import counts, disabled_jobs
from daybook.timing import TIMING

log = logging.getLogger(__name__)

CYCLE_TIMEOUT_SECONDS = 120.0
"""Default timeout of one cycle; the writes that the cycle made before the timeout persist."""
IDLE_NAMING_FACTOR = 3
"""Factor by which the pause is longer after a cycle that found no run to name."""


Cycle = Callable[[], Coroutine[Any, Any, object]]
"""Function that runs one cycle of a service, bound to the state of the service."""


@dataclass(frozen=True)
class Service:
    """A background service. ``name`` is its name in the log and in `daybook status` (`passes`).

    ``start`` returns the service's cycle with new, empty state. If a cycle returns a `float`, the
    next cycle starts after that many seconds instead of the loop's interval. If a cycle of a
    ``required`` service fails or returns False, the later services of the loop wait for the next
    cycle. ``timeout`` is in seconds; None stands for `CYCLE_TIMEOUT_SECONDS`.
    """

    name: str
    does: str
    start: Callable[[Context, Term], Cycle]
    required: bool = False
    timeout: float | None = None


@dataclass(frozen=True, kw_only=True)
class Loop:
    """Services that run one after another, with a pause of ``interval`` after each cycle.

    ``signal`` ends the pause early, but not before ``min_pause``. ``charged`` returns whether a
    cycle is charged to the loop's CPU budget, which may extend the pause. The loop with
    ``checks_prefect`` releases the leadership if Prefect does not answer. A loop with
    ``everywhere`` runs in every process, without leadership. ``prepare`` is called once when a
    keeper starts, which may be long before it leads. ``feature`` is the feature that adds the loop;
    a loop of another distribution that fails is left out.
    """

    interval: Callable[[], timedelta]
    services: tuple[Service, ...]
    signal: Signal | None = None
    min_pause: Callable[[], timedelta] = timedelta
    charged: Callable[[Term], bool] | None = None
    checks_prefect: bool = False
    everywhere: bool = False
    prepare: Callable[[], object] | None = None
    feature: Feature | None = None

    def start(self, context: Context, term: Term) -> list[Cycle]:
        """Return the cycle of each service, with new, empty state."""
        return [each.start(context, term) for each in self.services]


@dataclass
class ServerState:
    """State between two cycles: the conflict of the last cycle, which is logged once, or ""."""

    conflict: str = ""


async def _record_server(
    ledger: Ledger, client: PrefectClient, holder: str, memory: ServerState
) -> None:
    conflict = await instances.record_server(ledger, client, holder)
    if conflict and conflict != memory.conflict:
        log.warning("%s", conflict, extra={"action": "two_prefect_servers"})
    memory.conflict = conflict


async def _has_open_runs(ledger: Ledger) -> bool:
    async with ledger.read() as session:
        return await counts.has_open_runs(session)


async def _record_ends(context: Context, excluded: ExcludedRuns) -> None:
    excluded.ids = context.supervised()
    await ended_runs.record_live_ends(context.ledger, context.client, supervised=excluded.ids)


async def _ensure(
    context: Context, excluded: ExcludedRuns, on_time: scheduled_runs.OnTimeRows
) -> None:
    await scheduled_runs.ensure_all(
        context.ledger, context.client, supervised=excluded.ids, on_time=on_time
    )


async def _read_ends(context: Context, imports: ImportProgress) -> None:
    imports.ends_read = await ended_runs.record_unread_ends(
        context.ledger, context.client, supervised=context.supervised()
    )


async def _observe(context: Context, imports: ImportProgress, seen: Fingerprints) -> None:
    found = await observer.observe(context.ledger, context.client, seen)
    imports.observed_at = found.began
    imports.observed |= dict.fromkeys(found.jobs, found.began)
    context.signals[Signal.OBSERVED].set()


async def _name_runs(
    ledger: Ledger, client: PrefectClient, memory: run_names.NamingState
) -> float | None:
    sent = await run_names.name_runs(ledger, client, memory)
    # Prefect's scheduler inserts runs every minute.
    return None if sent else IDLE_NAMING_FACTOR * TIMING.jobs_interval.total_seconds()


async def _audit(
    ledger: Ledger, imports: ImportProgress, memory: auditor.AuditorState
) -> float | None:
    report = await auditor.audit(ledger, imports.known(), memory=memory)
    return TIMING.runs_interval.total_seconds() if report.left else None


async def _prune(ledger: Ledger) -> float | None:
    report = await retention.prune(ledger)
    return TIMING.jobs_interval.total_seconds() if report.left else None


async def _ping(
    context: Context, imports: ImportProgress, last: alerts.AlertState, memory: alerts.PingState
) -> None:
    if imports.observed_at is not None:  # otherwise this leader has not read Prefect yet
        await alerts.ping(memory, context.read_overview, is_overdue=bool(last.seen))


_DRAIN = Service(
    "drain",
    "records the outcomes that this home spooled while the ledger was unreachable",
    lambda context, _: partial(outcome_spool.drain, context.ledger),
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
            lambda context, _: partial(_has_open_runs, context.ledger),
            required=True,
        ),
        Service(
            "expire",
            "expires lost leases and passed deadlines",
            lambda context, _: partial(lease_reaper.expire, context.ledger, context.client),
        ),
        Service(
            "skip",
            "skips waiting runs whose jobs are disabled",
            lambda context, _: partial(disabled_jobs.skip_all, context.ledger),
        ),
        Service(
            "ends",
            "records live runs that have ended in Prefect",
            lambda context, term: partial(_record_ends, context, term.excluded),
            required=True,
        ),
        Service(
            "ensure",
            "gives each waiting run one scheduled Prefect run",
            lambda context, term: partial(
                _ensure, context, term.excluded, scheduled_runs.OnTimeRows()
            ),
        ),
        Service(
            "wake",
            "starts waiting runs when slots are free",
            lambda context, _: partial(
                scheduled_runs.wake_for_idle_slots, context.ledger, context.client
            ),
        ),
        Service(
            "mirror",
            "shows the outcomes of finished runs in Prefect",
            lambda context, _: partial(state_mirror.mirror, context.ledger, context.client),
        ),
    ),
)

JOBS = Loop(
    interval=lambda: TIMING.jobs_interval,
    signal=Signal.EDITED,
    min_pause=lambda: TIMING.min_pass_interval,
    # The first observation of a term, which reads everything, is not charged.
    charged=lambda term: term.imports.observed_at is not None,
    services=(
        # First, because a job whose deployment is created again needs its agent and its secrets.
        Service(
            "blocks",
            "copies Prefect's block documents to the ledger, and restores lost ones",
            lambda context, _: partial(
                blocks.reconcile_blocks, context.ledger, context.client, ComparisonCache()
            ),
        ),
        # Before the observer, because a deployment would create its queue without a priority.
        Service(
            "queues",
            "keeps a work queue for each class of jobs in Prefect",
            lambda context, _: partial(
                work_queues.ensure, context.client, work_queues.QueuesState()
            ),
        ),
        Service(
            "observe",
            "imports edits made in Prefect",
            lambda context, term: partial(_observe, context, term.imports, Fingerprints()),
        ),
        Service(
            "correct",
            "corrects the due times that Prefect computes wrongly",
            lambda context, _: partial(
                corrections.correct, context.ledger, context.client, corrections.CorrectionState()
            ),
        ),
    ),
)

# `unread` has a loop of its own, because there may be much to read after a long absence. A longer
# interval is enough, because Prefect also reports the ends of runs with events.
ENDS = Loop(
    interval=lambda: TIMING.jobs_interval,
    services=(
        Service(
            "unread",
            "records other runs that have ended in Prefect",
            lambda context, term: partial(_read_ends, context, term.imports),
        ),
    ),
)

LOOPS = (
    Loop(everywhere=True, interval=lambda: TIMING.runs_interval, services=(_DRAIN,)),
    Loop(
        everywhere=True,
        interval=lambda: TIMING.server_interval,
        services=(
            Service(
                "server",
                "records the Prefect server that this process uses",
                lambda context, _: partial(
                    _record_server, context.ledger, context.client, context.holder, ServerState()
                ),
            ),
        ),
    ),
    RUNS,
    ENDS,
    JOBS,
    Loop(
        interval=lambda: TIMING.jobs_interval,
        charged=lambda _: True,
        services=(
            Service(
                "naming",
                "names new Prefect runs",
                lambda context, _: partial(
                    _name_runs, context.ledger, context.client, run_names.NamingState()
                ),
            ),
        ),
    ),
    Loop(
        interval=lambda: TIMING.jobs_interval,
        signal=Signal.OBSERVED,
        services=(
            Service(
                "audit",
                "makes sure that each past due time has a row",
                lambda context, term: partial(
                    _audit, context.ledger, term.imports, auditor.AuditorState()
                ),
            ),
        ),
    ),
    Loop(
        interval=lambda: TIMING.delivery_interval,
        services=(
            Service(
                "outbox",
                "sends due callbacks and messages",
                lambda context, _: partial(
                    deliveries.send_due,
                    context.ledger,
                    context.client,
                    context.holder,
                    deliveries.DeliveriesState(),
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
                lambda context, _: partial(
                    listeners.call_listeners,
                    context.ledger,
                    context.holder,
                    listeners.ListenersState(),
                ),
            ),
        ),
    ),
    Loop(
        interval=lambda: TIMING.alert_interval,
        services=(
            Service(
                "alarm",
                "queues alerts about overdue runs, and notes about long ones",
                lambda context, term: partial(alerts.queue_alerts, context.ledger, term.alerts),
                required=True,
            ),
            Service(
                "ping",
                "requests the operator's URL while all findings are clear",
                lambda context, term: partial(
                    _ping, context, term.imports, term.alerts, alerts.PingState()
                ),
            ),
        ),
    ),
    Loop(
        interval=lambda: TIMING.tables_interval,
        charged=lambda _: True,
        services=(
            Service(
                "tables",
                "shows what is due next, and what needs attention, as tables in Prefect",
                lambda context, _: partial(
                    overview.show_tables,
                    context.ledger,
                    context.client,
                    context.read_overview,
                    overview.TablesState(),
                ),
            ),
        ),
    ),
    Loop(
        interval=lambda: TIMING.retention_interval,
        services=(
            Service(
                "prune",
                "deletes rows that the retention settings no longer keep",
                lambda context, _: partial(_prune, context.ledger),
            ),
        ),
    ),
)
"""The loops of every keeper."""


def loops() -> tuple[Loop, ...]:
    """Return all loops of a keeper, with those of features. They run concurrently."""
    found = list(LOOPS)
    for each in features():
        if each.loops:
            with leaving_out(each, "loops"):
                found += [replace(loop, feature=each) for loop in each.load(each.loops)]
    return tuple(found)
