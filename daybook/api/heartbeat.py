"""The heartbeat: switch it on, switch it off, show its status.

The heartbeat is an ordinary job of the kind `heartbeat`. `on` adds it if no job has its name; until
then there is none, so nothing runs by default.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from daybook.api import authorization, jobs
from daybook.errors import InvalidInput, NotFound
from daybook.execution import heartbeat
from daybook.jobs.actions import DEFAULT_ORDERS_FILE
from daybook.jobs.store import StoredJob
from daybook.ledger.engine import open_ledger

DEFAULT_NAME = "heartbeat"
DEFAULT_INTERVAL = "10m"
"""The interval if none is given."""

_SCHEDULE_FIELDS = ("cron", "every")


async def on(changes: Mapping[str, Any], name: str = DEFAULT_NAME) -> dict[str, Any]:
    """Switch the heartbeat on with the given fields; other fields stay. Return it as `status` does.

    Raise the errors of `jobs.add` and `jobs.edit_job`.
    """
    given = {field: value for field, value in changes.items() if value is not None}
    stored = await _find(name)
    if stored is None:
        interval = (
            {} if any(field in given for field in _SCHEDULE_FIELDS) else {"every": DEFAULT_INTERVAL}
        )
        view = await jobs.add({"kind": "heartbeat", "name": name, **interval, **given})
    elif given:
        view = await jobs.edit_job(stored.id, {**given, "enabled": True})
    else:
        view = await jobs.resume(stored.id)
    return await status(name) | {"notes": view.get("notes", [])}


async def off(name: str = DEFAULT_NAME) -> dict[str, Any]:
    """Switch the heartbeat off; its fields stay for the next `on`. Do nothing if there is none."""
    stored = await _find(name)
    if stored is not None:
        await jobs.pause(stored.id)
    return await status(name)


async def status(name: str = DEFAULT_NAME) -> dict[str, Any]:
    """Return `{"on", "job", "file", "orders"}`; ``job`` is as in `jobs.show`, or None if there is
    none.

    ``file`` is the path of its standing orders on this machine, ``orders`` is `missing`, `blank`,
    `unreadable` or `there`.
    """
    stored = await _find(name)
    if stored is None:
        return {"on": False, "job": None, **_orders(DEFAULT_ORDERS_FILE)}
    view = await jobs.show(stored.id)
    return {"on": view["enabled"], "job": view, **_orders(view["file"])}


def _orders(file: str) -> dict[str, str]:
    try:
        path = str(heartbeat.path_of(file))
        state = "there" if heartbeat.read(file) else "blank"
    except FileNotFoundError:
        state = "missing"
    except InvalidInput:
        path, state = file, "unreadable"
    return {"file": path, "orders": state}


async def _find(name: str) -> StoredJob | None:
    async with open_ledger() as ledger, ledger.read() as session:
        try:
            stored = await authorization.find_job(session, name)
        except NotFound:
            return None
    if stored.row.name != name:  # the name matched another job's id prefix
        return None
    if stored.row.kind != "heartbeat":
        problem = f'"{name}" is a job of the kind {stored.row.kind}'
        raise InvalidInput("name", problem, "name the heartbeat otherwise")
    return stored
