"""Tasks, their runs and sessions as plain dictionaries: the shapes that `--json` prints.

Instants are RFC 3339 texts in UTC, durations are seconds. No view contains a token.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from daybook.ledger.run_json import utc_text
from daybook.ledger.task_tables import TaskEventRow, TaskRow, TaskRunRow, TaskSessionRow
from daybook.tasks.model import PRIORITIES
from daybook.tasks.states import Status


def task(row: TaskRow) -> dict[str, Any]:
    """Return a task: what to do, and which sessions may do it."""
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
        "created_at": utc_text(row.created_at),
    }


def run(row: TaskRunRow, now: datetime, names: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return one run of a task.

    `session` is the name of the session that holds it, from ``names`` (by id), else None;
    `queued_seconds` is its waiting time, None if it does not wait; `steps` are the completed steps
    of the escalation policy. A run with an expired lease is still claimed until lease expiry
    requeues it.
    """
    queued = row.status == Status.QUEUED
    return {
        "run_id": row.id,
        "task_id": row.task_id,
        "number": row.number,
        "status": str(row.status),
        "created_at": utc_text(row.created_at),
        "queued_at": utc_text(row.queued_at),
        "queued_seconds": max(0.0, (now - row.queued_at).total_seconds()) if queued else None,
        "claimed_at": utc_text(row.claimed_at),
        "session": (names or {}).get(row.session_id or ""),
        "lease_until": utc_text(row.lease_until),
        "lease_over": row.lease_until is not None and row.lease_until <= now,
        "finished_at": utc_text(row.finished_at),
        "done_by": row.done_by,
        "output": row.output,
        "error": row.error,
        "expiries": row.expiries,
        "starved_cycles": row.starved_cycles,
        "steps": list(row.tiers),
        "spawned_run_id": row.spawned_run_id,
        "attention": row.attention,
    }


def task_with_run(
    of: TaskRow, newest: TaskRunRow, now: datetime, names: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Return a task with its newest run as `run`; that run's id and status follow the task's id."""
    plain = task(of)
    head = {"id": plain.pop("id"), "run_id": newest.id, "status": str(newest.status)}
    return head | plain | {"run": run(newest, now, names)}


def event(row: TaskEventRow) -> dict[str, Any]:
    """Return an event of a run: its actor, its session, and its reason."""
    return {
        "at": utc_text(row.at),
        "run_id": row.run_id,
        "event": row.event,
        "actor": row.actor,
        "session": row.session or None,
        "reason": row.reason,
    }


def session(
    row: TaskSessionRow, now: datetime, holds: str | None = None, *, hook: bool = False
) -> dict[str, Any]:
    """Return a task session; ``holds`` is the id of the run that it holds.

    `woken_by` is `stream` if a client is connected, else `webhook` if there is a ``hook``, else
    None: then the session has to poll.
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
        "idle_since": utc_text(row.idle_since),
        "registered_at": utc_text(row.registered_at),
        "expires_at": utc_text(row.expires_at),
        "expired": row.expires_at <= now,
        "connected": connected,
        "woken_by": "stream" if connected else "webhook" if hook else None,
    }
