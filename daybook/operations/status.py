"""`daybook status`: running processes, upcoming due times, and findings."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from daybook import home as homes
from daybook.api import overdue, task_scheduler, views
from daybook.api.overdue import DelayFacts
from daybook.errors import PrefectUnreachable
from daybook.jobs import store as jobs
from daybook.keeper import leader_lease
from daybook.ledger.engine import Ledger, open_ledger
from daybook.ledger.states import Status
from daybook.operations import findings, outbox_status
from daybook.operations.checks import home as home_checks
from daybook.operations.findings import Finding
from daybook.prefect import instances
from daybook.runs import history
from daybook.runs.overdue import find as find_overdue
from daybook.runs.overdue import unattended
from daybook.tasks import views as task_views

if TYPE_CHECKING:
    from daybook.prefect.work_pool import WorkPool

MAX_LISTED = 5


async def status() -> dict[str, Any]:
    """Return `{"ready", "prefect", "worker", "keeper", "ledger", "outbox", "tasks", "due_soon",
    "late", "problems"}`.

    ``late``: due times that passed without a started run, or that were missed lately because no
    process claimed them (`api.overdue`). ``outbox``: the state of callbacks and messages, and
    unread alerts (`outbox_status`). ``tasks``: the tasks of task sessions. ``ready``: Prefect
    answers, its pool does not belong to another Daybook alone, and a worker of this one is online.
    ``problems``: the findings, as sentences. Never raises for a Prefect that does not answer;
    raises `LedgerUnreachable`.
    """
    async with open_ledger() as ledger:
        async with ledger.read() as session:
            now = ledger.now()
            stored = await jobs.all_jobs(session)
            live = await history.live(session)
            candidates = [*live, *await unattended(session, now)]
            overdue_runs = await find_overdue(session, stored, candidates, now)
            tasks = await task_views.read_counts(session, now)
            servers = instances.conflict(await instances.in_use(session, now))
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
    online = sum(each["ours"] for each in workers)
    late = overdue.overdue_views(overdue_runs, known)
    if pool:
        found += findings.pool(pool, prefect["api_url"], has_jobs=bool(stored))
        found += findings.worker(pool)
    found += findings.clock("clock", "Prefect's", known.prefect_ahead)
    found += findings.clock("ledger clock", "the ledger's", known.ledger_ahead)
    if servers:
        found.append(findings.problem("one prefect", servers, instances.CONFLICT_HINT))
    found += [findings.unwritable(unwritable)] if unwritable else findings.keeper(known)
    found += findings.sync(stored)
    found += findings.failing_jobs(stored)
    found += findings.expired_leases(live, now)
    found += outbox.findings({each.row.name for each in stored if each.row.consecutive_failures})
    found += home_checks.settings()
    found += findings.tasks(tasks, now)
    found += findings.late(late)
    return {
        "ready": online > 0 and not (stored and pool and pool.foreign),
        "prefect": prefect,
        "worker": {"online": online, "workers": workers},
        "keeper": overdue.keeper_view(leader, known.now),
        "ledger": {
            "place": ledger.place,
            "id": ledger.id,
            "jobs": len(stored),
            "enabled": sum(each.job.enabled for each in stored),
            "live": {str(state): sum(row.state is state for row in live) for state in _LIVE},
        },
        "outbox": outbox.as_view(),
        "tasks": task_scheduler.as_view(tasks, now),
        "due_soon": _due_soon(stored, now),
        "late": late,
        "problems": [str(each) for each in found],
    }


async def worker_online() -> bool:
    """Return whether a worker would run a job now; False also if Prefect does not answer."""
    from daybook.prefect import client as connection
    from daybook.prefect import work_pool

    try:
        async with open_ledger() as ledger, connection.connected() as client:
            return not (await work_pool.read(client, ledger.id)).idle
    except PrefectUnreachable:
        return False


async def _prefect(
    ledger: Ledger,
) -> tuple[dict[str, Any], WorkPool | None, DelayFacts, list[Finding]]:
    """Return the view of Prefect, its work pool, the facts about delays, and the problem if Prefect
    does not answer, when the pool is None.
    """
    from daybook.operations.checks import prefect as checks
    from daybook.prefect import client as connection
    from daybook.prefect import work_pool

    running = homes.current_home().running() or {}
    view: dict[str, Any] = {
        "reachable": False,
        "api_url": running.get("api_url"),
        "ui_url": running.get("ui_url"),
        "own": bool(running.get("own_server")),
        "version": None,
    }
    try:
        async with connection.connected() as client:
            from prefect.settings import get_current_settings

            await connection.check_connection(client)
            settings = get_current_settings()
            view |= {"reachable": True, "api_url": str(client.api_url).rstrip("/")}
            view["ui_url"] = view["ui_url"] or settings.ui_url
            view["version"] = await client.api_version()
            pool = await work_pool.read(client, ledger.id)
            ahead = await checks.clock_ahead(client)
    except PrefectUnreachable as error:
        view["api_url"] = (error.address or "").rstrip("/") or view["api_url"]
        known = DelayFacts(ledger.now(), away=str(error))
        return view, None, known, [checks.unreachable(error)]
    return view, pool, DelayFacts(ledger.now(), pool=pool, prefect_ahead=ahead), []


_LIVE = (Status.WAITING, Status.CLAIMED, Status.RUNNING)


def _due_soon(stored: list[jobs.StoredJob], now: datetime) -> list[dict[str, Any]]:
    coming = [
        (due["utc"], each.row.name)
        for each in stored
        if each.job.enabled
        for due in views.due_of_job(each, now, 1)
    ]
    return [{"job": name, "due": due} for due, name in sorted(coming)[:MAX_LISTED]]
