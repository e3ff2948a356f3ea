"""`daybook status`: running processes, upcoming due times, and findings."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from heapq import nsmallest
from typing import TYPE_CHECKING

from pydantic import BaseModel, SerializeAsAny

from daybook import home as homes
from daybook import settings
from daybook.api import maintenance as maintenance_api
from daybook.api.maintenance import MaintenanceWindow
from daybook.api.overdue import (
    DelayFacts,
    KeeperStatus,
    OverdueRun,
    why_nothing_runs,
    without_catch_up,
)
from daybook.delivery.views import OutboxHealth
from daybook.diagnosis import feature_status, findings, outbox_status
from daybook.diagnosis.checks import home as home_checks
from daybook.diagnosis.feature_status import FeatureStatus
from daybook.errors import PrefectUnreachable
from daybook.finding import Finding, problem
from daybook.instants import UtcTime
from daybook.jobs import store, stored_columns, summaries
from daybook.keeper import leader_lease
from daybook.keeper.overview import MAX_DUE, Overview
from daybook.ledger.engine import Ledger, open_ledger
from daybook.ledger.states import Status
from daybook.prefect import instances, work_pool
from daybook.prefect.work_pool import OnlineWorker
from daybook.runs import approvals, history, maintenance, overdue
from daybook.schedules.schedule import zone
from daybook.timing import TIMING

if TYPE_CHECKING:
    from daybook.prefect.work_pool import WorkPool

MAX_LISTED = 5


class PrefectStatus(BaseModel, frozen=True):
    """The Prefect server; ``own`` is true if this home's `daybook up` started it.

    ``version`` is None if the server is not ``reachable``, and for Prefect Cloud. ``api_url`` is
    None if no address is known.
    """

    reachable: bool
    api_url: str | None
    ui_url: str | None
    own: bool
    version: str | None


class WorkersOnline(BaseModel, frozen=True):
    """The workers of the pool; ``online`` counts the workers of this Daybook."""

    online: int
    workers: list[OnlineWorker]


class LedgerStatus(BaseModel, frozen=True):
    """The ledger: its address, the number of its jobs, and its ``live`` runs by state."""

    place: str
    id: str
    jobs: int
    enabled: int
    live: dict[str, int]


class DueJob(BaseModel, frozen=True):
    """A job with its next due time."""

    job: str
    due: UtcTime


class StatusReport(BaseModel, frozen=True, extra="allow"):
    """The running processes, the next due times, and the findings.

    - ``ready`` is true if Prefect answers, a worker of this Daybook is online, and this Daybook's
      jobs are in the work pool. It is false if the pool contains only another Daybook's jobs while
      this Daybook has jobs too.
    - ``due_soon`` has up to `MAX_LISTED` jobs, sorted by due time.
    - ``maintenance`` has the present and the planned windows in which no job starts.
    - ``late`` has the due times whose run has not started. It also has the due times that the
      keeper recently marked as missed because no process claimed them.
    - ``problems`` has the findings that are problems or warnings.
    - Further fields are the states of features, by the names of the features.
    """

    __pydantic_extra__: dict[str, SerializeAsAny[FeatureStatus]]

    ready: bool
    prefect: PrefectStatus
    worker: WorkersOnline
    keeper: KeeperStatus
    ledger: LedgerStatus
    outbox: OutboxHealth
    due_soon: list[DueJob]
    maintenance: list[MaintenanceWindow]
    late: list[OverdueRun]
    problems: list[Finding]


async def status() -> StatusReport:
    """Return the state of this Daybook, also if Prefect does not answer.

    Raise `LedgerUnreachable`.
    """
    return (await _read())[0]


async def overview() -> Overview:
    """Return the overview for the keeper's ping and tables. Raise `LedgerUnreachable`."""
    report, found = await _read(MAX_DUE)
    local = zone(settings.load().timezone)
    return Overview(
        [
            (each.job, each.due.astimezone(local).isoformat(" ", "seconds"))
            for each in report.due_soon
        ],
        found,
    )


async def _read(max_due: int = MAX_LISTED) -> tuple[StatusReport, list[Finding]]:
    async with open_ledger() as ledger:
        async with ledger.read() as session:
            now = ledger.now()
            jobs = await summaries.read(session)
            outputs = await store.used_outputs(session)
            edited = await store.edited_since_applied(session)
            live = await history.live(session)
            silent = await history.without_answers(session)
            unreadable = await stored_columns.unreadable(session)
            memory = overdue.DueTimeCache()
            overdue_runs = await overdue.find_all(session, memory, now)
            windows = await maintenance.read(session)
            asked = await approvals.waiting(session, now)
            servers = instances.conflict(await instances.in_use(session, now))
        of_features = await feature_status.read_all(ledger, now)
        outbox = await outbox_status.read_status(ledger)
        prefect, pool, known, found = await _prefect(ledger)
        leader = await leader_lease.read(ledger, leader_lease.LEADERSHIP_NAME)
        leads = leader is not None and leader.leads(ledger.now())
        unwritable = "" if leads else await ledger.why_unwritable()
        known = replace(
            known,
            now=ledger.now(),
            leader=leader,
            ledger_ahead=ledger.skew(),
            unwritable=unwritable,
        )
    workers = pool.workers if pool else []
    online = sum(each.ours for each in workers)
    overdue_runs = without_catch_up(overdue_runs, leader, known.now)
    late = [OverdueRun.of(each, known) for each in overdue_runs]
    # Of a killed `up`, a Prefect that does not answer is only the consequence.
    found = home_checks.leftovers() + found
    if pool:
        found += findings.pool(pool, prefect.api_url or "", has_jobs=bool(jobs))
        found += findings.worker(pool)
    found += findings.clock("clock", "Prefect's", known.prefect_ahead)
    found += findings.clock("ledger clock", "the ledger's", known.ledger_ahead)
    if servers:
        found.append(problem("one prefect", servers, instances.CONFLICT_HINT))
    found += [findings.unwritable(unwritable)] if unwritable else findings.keeper(known)
    found += findings.unreadable_jobs(unreadable) + findings.sync(jobs) + findings.drift(edited)
    found += findings.failing_jobs(jobs, now) + findings.without_answers(silent)
    found += findings.broken_chains(jobs, outputs)
    found += findings.approvals(asked)
    found += findings.expired_leases(live, now) + findings.waiting(live, now, pool)
    found += outbox.findings({each.name for each in jobs if each.consecutive_failures})
    found += home_checks.settings() + home_checks.disk() + home_checks.prefect_size()
    found += home_checks.processes()
    found += feature_status.findings_of(of_features)
    found += findings.late(late)
    report = StatusReport(
        ready=online > 0 and not (jobs and pool and pool.foreign),
        prefect=prefect,
        worker=WorkersOnline(online=online, workers=workers),
        keeper=KeeperStatus.of(leader, known.now),
        ledger=LedgerStatus(
            place=ledger.place,
            id=ledger.id,
            jobs=len(jobs),
            enabled=sum(each.enabled for each in jobs),
            live={str(state): sum(row.state is state for row in live) for state in _LIVE},
        ),
        outbox=outbox.health,
        due_soon=_due_soon(memory, now, max_due),
        maintenance=maintenance_api.views(windows, now),
        late=late,
        problems=found,
    )
    return feature_status.with_states(report, of_features), found


async def worker_online() -> bool:
    """Return whether a worker of this Daybook is online.

    If Prefect does not answer soon, return whether a keeper leads, which each worker contains.
    """
    from daybook.prefect import client as connection

    seconds = TIMING.prefect_answer.total_seconds()
    try:
        async with open_ledger() as ledger, connection.connected(seconds) as client:
            return not (await work_pool.read(client, ledger.id)).idle
    except PrefectUnreachable:
        return not await why_nothing_runs()


async def _prefect(
    ledger: Ledger,
) -> tuple[PrefectStatus, WorkPool | None, DelayFacts, list[Finding]]:
    """Return the state of Prefect, its work pool, the facts about delays, and the findings.

    If Prefect does not answer, the pool is None and there is one finding.
    """
    from daybook.diagnosis.checks import prefect as checks
    from daybook.prefect import client as connection

    running = homes.current_home().running() or {}
    state = PrefectStatus(
        reachable=False,
        api_url=running.get("api_url"),
        ui_url=running.get("ui_url"),
        own=bool(running.get("own_server")),
        version=None,
    )
    try:
        async with connection.connected() as client:
            from prefect.settings import get_current_settings

            await connection.check_connection(client)
            state = PrefectStatus(
                reachable=True,
                api_url=str(client.api_url).rstrip("/"),
                ui_url=state.ui_url or get_current_settings().ui_url,
                own=state.own,
                version=None if connection.is_cloud(client) else await client.api_version(),
            )
            pool = await work_pool.read(client, ledger.id, ledger.now())
            ahead = await checks.clock_ahead(client)
    except PrefectUnreachable as error:
        address = (error.address or "").rstrip("/") or state.api_url
        state = state.model_copy(update={"api_url": address})
        known = DelayFacts(ledger.now(), prefect_error=str(error))
        return state, None, known, [checks.unreachable(error)]
    return state, pool, DelayFacts(ledger.now(), pool=pool, prefect_ahead=ahead), []


_LIVE = (Status.WAITING, Status.CLAIMED, Status.RUNNING)


def _due_soon(memory: overdue.DueTimeCache, now: datetime, most: int) -> list[DueJob]:
    coming = [
        (due, job.name)
        for job, first in memory.next_due_times(now)
        if (due := job.next_start(now) if job.skips or job.snoozed_until else first)
    ]
    return [DueJob(job=name, due=due) for due, name in nsmallest(most, coming)]
