"""How this Daybook is: what runs, what is due soon, and what is wrong."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from daybook import home as homes
from daybook.errors import PrefectUnreachable
from daybook.ledger import history, jobs, leases
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Status
from daybook.service import home, views

SOON = 5


async def status() -> dict[str, Any]:
    """`{"ready", "prefect", "worker", "keeper", "ledger", "due_soon", "problems"}`.

    Ready is: Prefect answers, its pool is not another Daybook's alone, and a worker of this one is
    online. Never raises for a Prefect that does not answer; raises `LedgerUnreachable`.
    """
    problems: list[str] = []
    told: list[str] = []
    async with home.ledger() as ledger:
        book, soon = await _ledger(ledger, told)
        prefect, worker, ready = await _prefect(ledger.id, book["jobs"], problems)
    return {
        "ready": ready,
        "prefect": prefect,
        "worker": worker,
        "keeper": {"running": False},
        "ledger": book,
        "due_soon": soon,
        "problems": problems + told,
    }


async def worker_online() -> bool:
    """Whether somebody would run a job now; False also when Prefect does not answer."""
    from daybook.service import pool
    from daybook.sync import client as connection

    try:
        async with home.ledger() as ledger, connection.connected() as client:
            return not (await pool.read(client, ledger.id)).idle
    except PrefectUnreachable:
        return False


async def _prefect(
    ledger_id: str, jobs: int, problems: list[str]
) -> tuple[dict[str, Any], dict[str, Any], bool]:
    from daybook.service import pool
    from daybook.sync import client as connection

    running = homes.here().running() or {}
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

            await connection.answers(client)
            known = get_current_settings()
            facts |= {"reachable": True, "api_url": str(client.api_url).rstrip("/")}
            facts["ui_url"] = facts["ui_url"] or known.ui_url
            facts["version"] = await client.api_version()
            there = await pool.read(client, ledger_id)
    except PrefectUnreachable as error:
        problems.append(str(error))
        facts["api_url"] = (error.address or "").rstrip("/") or facts["api_url"]
        return facts, {"online": 0, "workers": []}, False
    ours = [each for each in there.workers if each["ours"]]
    foreign = there.foreign if jobs else ""
    if foreign:
        problems.append(f"{foreign}; is {facts['api_url']} the right Prefect? `daybook doctor`")
    if there.idle:
        problems.append(f"{there.idle}; `daybook up` starts one")
    worker = {"online": len(ours), "workers": there.workers}
    return facts, worker, bool(ours) and not foreign


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
        if each.row.conflict:
            fields = ", ".join(each.row.conflict["fields"])
            what = f"{each.row.name} was changed here and in Prefect ({fields})"
            problems.append(f"{what}; `daybook conflicts` shows both")
        if each.row.consecutive_failures:
            count = each.row.consecutive_failures
            often = "once" if count == 1 else f"{count} times in a row"
            problems.append(f"{each.row.name} failed {often}: {each.row.last_error}")
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
    coming = [
        (due["utc"], each.row.name)
        for each in stored
        if each.job.enabled
        for due in views.coming(each, now, 1)
    ]
    return [{"job": name, "due": due} for due, name in sorted(coming)[:SOON]]
