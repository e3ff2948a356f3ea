"""How this Daybook is: what runs, what is due soon, and what is wrong."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from daybook import home as homes
from daybook.errors import PrefectUnreachable
from daybook.ledger import history, jobs, leases
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Status
from daybook.service import home, views
from daybook.spec.due import next_due

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

SOON = 5


async def status() -> dict[str, Any]:
    """`{"ready", "prefect", "worker", "keeper", "ledger", "due_soon", "problems"}`.

    Ready is: Prefect answers and a worker is online. Never raises for a Prefect that does not
    answer; raises `LedgerUnreachable`.
    """
    problems: list[str] = []
    prefect, worker = await _prefect(problems)
    async with home.ledger() as ledger:
        book, soon = await _ledger(ledger, problems)
    return {
        "ready": prefect["reachable"] and bool(worker["online"]),
        "prefect": prefect,
        "worker": worker,
        "keeper": {"running": False},
        "ledger": book,
        "due_soon": soon,
        "problems": problems,
    }


async def workers(client: PrefectClient) -> list[dict[str, Any]]:
    """The workers of our pool that are online: `{"name", "last_heartbeat"}`."""
    from prefect.client.schemas.objects import WorkerStatus
    from prefect.exceptions import ObjectNotFound

    from daybook.sync.form import POOL

    try:
        known = await client.read_workers_for_work_pool(POOL)
    except ObjectNotFound:
        return []
    return [
        {"name": each.name, "last_heartbeat": views.utc(each.last_heartbeat_time)}
        for each in known
        if each.status == WorkerStatus.ONLINE
    ]


async def worker_online() -> bool:
    """Whether somebody would run a job now; False also when Prefect does not answer."""
    from daybook.sync import client as connection

    try:
        async with connection.connected() as client:
            return bool(await workers(client))
    except PrefectUnreachable:
        return False


async def _prefect(problems: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    from daybook.sync import client as connection

    running = homes.here().running() or {}
    facts: dict[str, Any] = {
        "reachable": False,
        "api_url": running.get("api_url"),
        "ui_url": running.get("ui_url"),
        "own": bool(running.get("own_server")),
        "version": None,
    }
    online: list[dict[str, Any]] = []
    try:
        async with connection.connected() as client:
            from prefect.settings import get_current_settings

            await connection.answers(client)
            known = get_current_settings()
            facts |= {"reachable": True, "api_url": str(client.api_url).rstrip("/")}
            facts["ui_url"] = facts["ui_url"] or known.ui_url
            facts["version"] = await client.api_version()
            online = await workers(client)
    except PrefectUnreachable as error:
        problems.append(str(error))
    if facts["reachable"] and not online:
        problems.append("no worker is online, so nothing runs; `daybook up` starts one")
    return facts, {"online": len(online), "workers": online}


async def _ledger(
    ledger: Ledger, problems: list[str]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    now = ledger.now()
    async with ledger.read() as session:
        stored = await jobs.every(session)
        live = await history.live(session)
    for each in stored:
        if each.row.sync_pending:
            problems.append(f"{each.row.name} is not in Prefect yet; `daybook sync` brings it")
        if each.row.consecutive_failures:
            count, name = each.row.consecutive_failures, each.row.name
            problems.append(f"{name} failed {count} times in a row: {each.row.last_error}")
    for row in live:
        if leases.ran_out(row, now):
            since = views.utc(row.lease_until)
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
    return facts, _soon(stored, now)


_LIVE = (Status.WAITING, Status.CLAIMED, Status.ACTING)


def _soon(stored: list[jobs.StoredJob], now: datetime) -> list[dict[str, Any]]:
    upcoming = [
        (due, each.row.name)
        for each in stored
        if each.job.enabled and (due := next_due(each.job.schedule, now)) is not None
    ]
    return [{"job": name, "due": views.utc(due)} for due, name in sorted(upcoming)[:SOON]]
