"""`daybook status`: what runs, what is due soon, and what is wrong."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

from daybook import home as homes
from daybook.api import overdue, task_scheduler, views
from daybook.api.overdue import DelayFacts
from daybook.errors import PrefectUnreachable
from daybook.jobs import store as jobs
from daybook.keeper import leader_lease
from daybook.ledger.engine import Ledger, open_ledger
from daybook.ledger.states import Status
from daybook.operations import outbox_status as told_of
from daybook.prefect import instances
from daybook.runs import history, leases
from daybook.runs.overdue import Overdue, unattended
from daybook.runs.overdue import find as find_overdue
from daybook.tasks import counts as figures
from daybook.tasks.views import TaskTotals

MAX_LISTED = 5


async def status() -> dict[str, Any]:
    """Return `{"ready", "prefect", "worker", "keeper", "ledger", "outbox", "tasks", "due_soon",
    "late", "problems"}`.

    ``late``: due times that passed without a started run, or that were missed lately because no
    process claimed them (`api.overdue`). ``outbox``: the state of callbacks and messages, and
    unread alerts (`outbox_status`). ``tasks``: the tasks of task sessions. ``ready``: Prefect
    answers, its pool does not belong to another Daybook alone, and a worker of this one is online.
    Never raises for a Prefect that does not answer; raises `LedgerUnreachable`.
    """
    problems: list[str] = []
    notices: list[str] = []
    async with open_ledger() as ledger:
        ledger_facts, due_soon, overdue_runs = await _ledger(ledger, notices)
        outbox = await told_of.read_status(ledger)
        async with ledger.read() as session:
            tasks = await figures.read_counts(session, now := ledger.now())
            servers = instances.conflict(await instances.in_use(session, now))
        prefect, worker, ready, context = await _prefect(ledger, ledger_facts["jobs"], problems)
        leader = await leader_lease.read(ledger, leader_lease.LEADERSHIP_NAME)
        has_leader = leader is not None and leader.leads(ledger.now())
        unwritable = "" if has_leader else await ledger.why_unwritable()
        context = replace(
            context,
            now=ledger.now(),
            leader=leader,
            ledger_ahead=ledger.skew(),
            unwritable=unwritable,
        )
    problems += filter(None, [overdue.clock_problem(context)])
    if servers:
        problems.append(f"{servers}; {instances.CONFLICT_HINT}")
    if unwritable:
        problems.append(overdue.ledger_write_problem(unwritable))
    elif (
        ready and leader and (missing := overdue.keeper_problem(context))
    ):  # without a leader it has just started
        problems.append(f"{missing}; `daybook keeper` starts one")
    if unsent := outbox.unsent_problem():
        notices.append(f"{unsent}; `daybook up` or `daybook keeper` does")
    notices += outbox.paused_destinations()
    if alerts := outbox.unread_alerts():
        notices.append(f"{alerts}; `daybook inbox` shows what was told")
    notices += map(str, task_scheduler.settings_problems() + task_scheduler.problems(tasks, now))
    late_now = overdue.overdue_views(overdue_runs, context)
    return {
        "ready": ready,
        "prefect": prefect,
        "worker": worker,
        "keeper": overdue.keeper_view(leader, context.now),
        "ledger": ledger_facts,
        "outbox": outbox.as_view(),
        "tasks": TaskTotals.of(tasks, now).model_dump(),
        "due_soon": due_soon,
        "late": late_now,
        "problems": problems
        + notices
        + [overdue.as_sentence(each) for each in late_now[:MAX_LISTED]],
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
    ledger: Ledger, jobs: int, problems: list[str]
) -> tuple[dict[str, Any], dict[str, Any], bool, DelayFacts]:
    from daybook.operations.checks import prefect as server
    from daybook.prefect import client as connection
    from daybook.prefect import work_pool

    running = homes.current_home().running() or {}
    facts: dict[str, Any] = {
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
            facts |= {"reachable": True, "api_url": str(client.api_url).rstrip("/")}
            facts["ui_url"] = facts["ui_url"] or settings.ui_url
            facts["version"] = await client.api_version()
            pool_state = await work_pool.read(client, ledger.id)
            ahead = await server.clock_ahead(client)
    except PrefectUnreachable as error:
        problems.append(str(error))
        facts["api_url"] = (error.address or "").rstrip("/") or facts["api_url"]
        known = DelayFacts(ledger.now(), away=str(error))
        return facts, {"online": 0, "workers": []}, False, known
    own_workers = [each for each in pool_state.workers if each["ours"]]
    foreign = pool_state.foreign if jobs else ""
    if foreign:
        problems.append(f"{foreign}; is {facts['api_url']} the right Prefect? `daybook doctor`")
    if pool_state.idle:
        problems.append(f"{pool_state.idle}; `daybook up` starts one")
    problems += [f"{each} is paused in Prefect" for each in pool_state.paused]
    worker = {"online": len(own_workers), "workers": pool_state.workers}
    known = DelayFacts(ledger.now(), pool=pool_state, prefect_ahead=ahead)
    return facts, worker, bool(own_workers) and not foreign, known


async def _ledger(
    ledger: Ledger, problems: list[str]
) -> tuple[dict[str, Any], list[dict[str, Any]], list[Overdue]]:
    now = ledger.now()
    async with ledger.read() as session:
        stored = await jobs.all_jobs(session)
        live = await history.live(session)
        rows = [*live, *await unattended(session, now)]
        overdue_runs = await find_overdue(session, stored, rows, now)
    for each in stored:
        if each.row.sync_pending:
            problems.append(f"{each.row.name} is not in Prefect yet; `daybook sync` brings it")
        if each.row.conflict:
            fields = ", ".join(each.row.conflict["fields"])
            message = f"{each.row.name} was changed here and in Prefect ({fields})"
            problems.append(f"{message}; `daybook conflicts` shows both")
        if each.row.consecutive_failures:
            count = each.row.consecutive_failures
            times = "once" if count == 1 else f"{count} times in a row"
            problems.append(f"{each.row.name} failed {times}: {each.row.last_error}")
    for row in live:
        if leases.is_expired(row, now):
            since = views.utc_text(row.lease_until)
            problems.append(
                f"run {row.id[:8]}: {row.holder} has not renewed its lease since {since}"
            )
    facts = {
        "place": ledger.place,
        "id": ledger.id,
        "jobs": len(stored),
        "enabled": sum(each.job.enabled for each in stored),
        "live": {str(state): sum(r.state is state for r in live) for state in _LIVE},
    }
    return facts, _due_soon(stored, now), overdue_runs


_LIVE = (Status.WAITING, Status.CLAIMED, Status.RUNNING)


def _due_soon(stored: list[jobs.StoredJob], now: datetime) -> list[dict[str, Any]]:
    coming = [
        (due["utc"], each.row.name)
        for each in stored
        if each.job.enabled
        for due in views.due_of_job(each, now, 1)
    ]
    return [{"job": name, "due": due} for due, name in sorted(coming)[:MAX_LISTED]]
