"""Tasks, their runs and sessions as plain dictionaries: the shapes that `--json` prints.

Instants are RFC 3339 texts in UTC, lengths of time seconds. A token is in none of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from daybook.ledger.run_json import utc
from daybook.ledger.task_tables import TaskEventRow, TaskRow, TaskRunRow, TaskSessionRow
from daybook.tasks.model import PRIORITIES
from daybook.tasks.states import Status


def task(row: TaskRow) -> dict[str, Any]:
    """What is to be done, and who may do it."""
    return {
        "id": row.id,
        "title": row.title,
        "instructions": row.instructions,
        "priority": PRIORITIES[row.priority],
        "owner": row.owner,
        "workspace": row.workspace,
        "channel": row.channel,
        "capabilities": list(row.capabilities),
        "preferred": list(row.preferred),
        "paused": row.paused,
        "paused_reason": row.paused_reason,
        "created_by": row.created_by,
        "created_at": utc(row.created_at),
    }


def run(row: TaskRunRow, now: datetime, names: Mapping[str, str] | None = None) -> dict[str, Any]:
    """One try at a task.

    `session` is the name of the one that holds it, of those in ``names`` (by id), else None;
    `queued_seconds` is for how long it waits, None where it does not. `steps` are those of the
    ladder that were taken. A run whose lease is over is claimed until the sweep takes it back.
    """
    queued = row.status == Status.QUEUED
    return {
        "run_id": row.id,
        "task_id": row.task_id,
        "number": row.number,
        "status": str(row.status),
        "created_at": utc(row.created_at),
        "queued_at": utc(row.queued_at),
        "queued_seconds": max(0.0, (now - row.queued_at).total_seconds()) if queued else None,
        "claimed_at": utc(row.claimed_at),
        "session": (names or {}).get(row.session_id or ""),
        "lease_until": utc(row.lease_until),
        "lease_over": row.lease_until is not None and row.lease_until <= now,
        "finished_at": utc(row.finished_at),
        "done_by": row.done_by,
        "output": row.output,
        "error": row.error,
        "expiries": row.expiries,
        "starved_cycles": row.starved_cycles,
        "steps": list(row.tiers),
        "spawned_run_id": row.spawned_run_id,
        "attention": row.attention,
    }


def both(
    of: TaskRow, newest: TaskRunRow, now: datetime, names: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """A task with its newest run as `run`; that one's id and status stand beside the task's id."""
    plain = task(of)
    head = {"id": plain.pop("id"), "run_id": newest.id, "status": str(newest.status)}
    return head | plain | {"run": run(newest, now, names)}


def event(row: TaskEventRow) -> dict[str, Any]:
    """What happened to a run: who did it, of which session, and why."""
    return {
        "at": utc(row.at),
        "run_id": row.run_id,
        "event": row.event,
        "actor": row.actor,
        "session": row.session or None,
        "reason": row.reason,
    }


def session(
    row: TaskSessionRow, now: datetime, holds: str | None = None, *, hook: bool = False
) -> dict[str, Any]:
    """A live agent that claims tasks; ``holds`` is the id of the run that it has.

    `woken_by` is `stream` where a client is connected, else `webhook` where there is a ``hook``;
    None: it has to ask.
    """
    connected = row.connected_until is not None and row.connected_until > now
    return {
        "id": row.id,
        "name": row.name,
        "agent": row.agent,
        "type": row.type,
        "workspace": row.workspace,
        "channel": row.channel,
        "capabilities": list(row.capabilities),
        "state": row.state,
        "prompting": row.prompting,
        "run_id": holds,
        "owner": row.owner,
        "idle_since": utc(row.idle_since),
        "registered_at": utc(row.registered_at),
        "expires_at": utc(row.expires_at),
        "expired": row.expires_at <= now,
        "connected": connected,
        "woken_by": "stream" if connected else "webhook" if hook else None,
    }
