"""Operations on the heartbeat: on, off, status."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel

from daybook.api import authorization, jobs
from daybook.errors import InvalidInput, NotFound
from daybook.execution import heartbeat
from daybook.jobs.action_fields import DEFAULT_ORDERS_FILE
from daybook.jobs.actions import Heartbeat
from daybook.jobs.store import StoredJob
from daybook.jobs.views import JobDetails
from daybook.ledger.engine import reading
from daybook.schedules.fields import ScheduleFields

DEFAULT_NAME = "heartbeat"
DEFAULT_INTERVAL = "10m"
"""The interval of a new heartbeat for which no schedule is given."""

OrdersState = Literal["missing", "blank", "unreadable", "there"]


class HeartbeatStatus(BaseModel, frozen=True):
    """The state of a heartbeat. ``job`` is None if there is no heartbeat.

    ``file`` is the path, on this machine, of the file with the standing orders. ``orders`` is the
    state of this file.
    """

    on: bool
    job: JobDetails | None
    file: str
    orders: OrdersState


class ChangedHeartbeat(HeartbeatStatus, frozen=True):
    """A heartbeat that was turned on, with hints for the user in ``notes``."""

    notes: list[str]


async def on(changes: Mapping[str, Any], name: str = DEFAULT_NAME) -> ChangedHeartbeat:
    """Turn the heartbeat on, with the fields in ``changes`` that are not None.

    If its job does not exist, add the job. Otherwise the other fields of the job keep their values.
    Raise the errors of `jobs.add`, `jobs.edit_job` and `jobs.resume`. Raise `InvalidInput` if
    ``name`` is a job of another kind.
    """
    given = {field: value for field, value in changes.items() if value is not None}
    stored = await _find(name)
    if stored is None:
        if not given.keys() & ScheduleFields.model_fields.keys() - {"timezone"}:
            given["every"] = DEFAULT_INTERVAL
        changed = await jobs.add({"kind": "heartbeat", "name": name, **given})
    elif given:
        changed = await jobs.edit_job(stored.id, {**given, "enabled": True})
    else:
        changed = await jobs.resume(stored.id)
    return ChangedHeartbeat(**dict(await status(name)), notes=changed.notes)


async def off(name: str = DEFAULT_NAME) -> HeartbeatStatus:
    """Turn the heartbeat off, if it exists. The job keeps its fields until the next `on`.

    Raise the errors of `jobs.pause`, and `InvalidInput` for a job of another kind.
    """
    stored = await _find(name)
    if stored is not None:
        await jobs.pause(stored.id)
    return await status(name)


async def status(name: str = DEFAULT_NAME) -> HeartbeatStatus:
    """Return the state of the heartbeat. Works without Prefect.

    Raise `Ambiguous`, and `InvalidInput` if ``name`` is a job of another kind.
    """
    stored = await _find(name)
    job = None if stored is None else await jobs.show(stored.id)
    action = job.action if job else None
    file = action.file if isinstance(action, Heartbeat) else DEFAULT_ORDERS_FILE
    path, state = _orders(file)
    return HeartbeatStatus(on=bool(job and job.enabled), job=job, file=path, orders=state)


def _orders(file: str) -> tuple[str, OrdersState]:
    """Return the path of the file of standing orders, and the state of the file."""
    state: OrdersState
    try:
        path = str(heartbeat.path_of(file))
        state = "there" if heartbeat.read(file) else "blank"
    except FileNotFoundError:
        state = "missing"
    except InvalidInput:
        path, state = file, "unreadable"
    return path, state


async def _find(name: str) -> StoredJob | None:
    async with reading() as session:
        try:
            stored = await authorization.find_job(session, name)
        except NotFound:
            return None
    if stored.row.name != name:  # the name matched the id prefix of another job
        return None
    if stored.row.kind != "heartbeat":
        problem = f'"{name}" is a job of the kind {stored.row.kind}'
        raise InvalidInput("name", problem, "choose another name")
    return stored
