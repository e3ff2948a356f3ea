"""The heartbeat: switched on, switched off, and how it is (requirement 42).

It is a job like any other, of the kind `heartbeat`, that `on` makes where there is none of its
name. Until then there is none, so nothing beats by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from daybook.api import authorization, jobs
from daybook.errors import InvalidInput, NotFound
from daybook.execution import standing_orders
from daybook.jobs.actions import ORDERS
from daybook.jobs.store import StoredJob
from daybook.ledger.engine import open_ledger

NAME = "heartbeat"
EVERY = "10m"
"""How often it beats where nobody says otherwise."""

_WHEN = ("cron", "every")


async def on(changes: Mapping[str, Any], name: str = NAME) -> dict[str, Any]:
    """Switch it on, with what is given; what is not stays as it was. Returns it as `status`.

    Raises as `jobs.add` and `jobs.edit_job`.
    """
    given = {field: value for field, value in changes.items() if value is not None}
    stored = await _find(name)
    if stored is None:
        when = {} if any(field in given for field in _WHEN) else {"every": EVERY}
        view = await jobs.add({"kind": "heartbeat", "name": name, **when, **given})
    elif given:
        view = await jobs.edit_job(stored.id, {**given, "enabled": True})
    else:
        view = await jobs.resume(stored.id)
    return await status(name) | {"notes": view.get("notes", [])}


async def off(name: str = NAME) -> dict[str, Any]:
    """Switch it off; what it was told stays for the next `on`. Nothing where there is none."""
    stored = await _find(name)
    if stored is not None:
        await jobs.pause(stored.id)
    return await status(name)


async def status(name: str = NAME) -> dict[str, Any]:
    """`{"on", "job", "file", "orders"}`; ``job`` as `jobs.show` has it, None where there is none.

    ``file`` is where its orders stand on this machine, ``orders`` is `missing`, `blank`,
    `unreadable` or `there`.
    """
    stored = await _find(name)
    if stored is None:
        return {"on": False, "job": None, **_orders(ORDERS)}
    view = await jobs.show(stored.id)
    return {"on": view["enabled"], "job": view, **_orders(view["file"])}


def _orders(file: str) -> dict[str, str]:
    try:
        there = str(standing_orders.place(file))
        found = "there" if standing_orders.read(file) else "blank"
    except FileNotFoundError:
        found = "missing"
    except InvalidInput:
        there, found = file, "unreadable"
    return {"file": there, "orders": found}


async def _find(name: str) -> StoredJob | None:
    async with open_ledger() as ledger, ledger.read() as session:
        try:
            stored = await authorization.job(session, name)
        except NotFound:
            return None
    if stored.row.name != name:  # the beginning of another one's id
        return None
    if stored.row.kind != "heartbeat":
        kind = f'"{name}" is a job of the kind {stored.row.kind}'
        raise InvalidInput("name", kind, "name the heartbeat otherwise")
    return stored
