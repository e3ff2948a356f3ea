"""Jobs, runs and deliveries as plain dictionaries: the shapes that `--json` prints
(`docs/design.md`).

Instants are RFC 3339 texts: due times with the offset of the job's zone, all others in UTC.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any

from daybook.jobs.notify import EVENTS, ON_FAIL_EVENTS, Notify
from daybook.jobs.policy import Policy
from daybook.jobs.upcoming import due_times
from daybook.ledger.run_json import run, utc_text
from daybook.ledger.states import Delivery
from daybook.schedules.descriptions import describe
from daybook.schedules.schedule import Schedule, zone

if TYPE_CHECKING:
    from daybook.jobs.model import Job
    from daybook.jobs.store import StoredJob
    from daybook.ledger.tables import JobRow, OutboxRow

__all__ = [
    "callback_urls",
    "delivery",
    "due",
    "due_of_job",
    "job",
    "recipients",
    "run",
    "utc_text",
]

ONE_MICROSECOND = timedelta(microseconds=1)
DUE_TIMES_SHOWN = 5
"""The number of due times in the view of a job."""


def due(
    schedule: Schedule,
    after: datetime,
    count: int,
    policy: Policy | None = None,
    skips: Collection[str] = (),
) -> list[dict[str, str]]:
    """Return the next ``count`` due times after ``after`` within the policy, as `{"utc", "local"}`.

    Leave out those in ``skips``.
    """
    tz = zone(schedule.timezone)
    upcoming = due_times(schedule, policy or Policy(), after=after)
    selected = (each for each in upcoming if each.isoformat() not in skips)
    return [
        {"utc": str(utc_text(each)), "local": each.astimezone(tz).isoformat()}
        for each in islice(selected, count)
    ]


def due_of_job(stored: StoredJob, after: datetime, count: int) -> list[dict[str, str]]:
    """Return the same for a job, without skipped and snoozed due times."""
    job, snoozed = stored.job, stored.row.snoozed_until
    start = after if snoozed is None else max(after, snoozed - ONE_MICROSECOND)
    return due(job.schedule, start, count, job.policy, stored.row.skips)


def job(stored: StoredJob, now: datetime) -> dict[str, Any]:
    """Return one job; `next_due` is empty for a disabled one.

    `skips` and `snoozed_until` leave out the past. `conflicts` are the undecided fields that were
    changed in both the ledger and Prefect; `prefect_own` describes the schedules that Prefect keeps
    for itself.
    """
    row, definition, snoozed = stored.row, stored.job, stored.row.snoozed_until
    upcoming = due_of_job(stored, now, DUE_TIMES_SHOWN) if definition.enabled else []
    return {
        "id": row.id,
        "name": row.name,
        "kind": row.kind,
        "enabled": definition.enabled,
        "disabled_reason": row.disabled_reason,
        "deployment": f"{row.kind}/{row.slug}",
        "schedule": definition.schedule.to_json(),
        "words": describe(definition.schedule),
        "next_due": [each["local"] for each in upcoming],
        "skips": [
            _local(definition, each)
            for each in map(datetime.fromisoformat, row.skips)
            if each > now
        ],
        "snoozed_until": _local(definition, snoozed) if snoozed and snoozed > now else None,
        "description": row.description,
        "tags": list(row.tags),
        "metadata": dict(row.meta),
        "owner": row.owner,
        "user_id": row.user_id,
        "created_by": row.created_by,
        **definition.parameters(),
        "sync": "pending" if row.sync_pending else "synced",
        "conflicts": sorted((row.conflict or {}).get("fields", {})),
        "prefect_own": list((row.synced or {}).get("foreign", [])),
        "created_at": utc_text(row.created_at),
        "updated_at": utc_text(row.updated_at),
        "removed_at": utc_text(row.archived_at),
        "last_run_id": row.last_run_id,
        "last_run_at": utc_text(row.last_run_at),
        "last_status": row.last_status,
        "last_error": row.last_error,
        "run_count": row.run_count,
        "consecutive_failures": row.consecutive_failures,
    }


def _local(job: Job, instant: datetime) -> str:
    return instant.astimezone(zone(job.schedule.timezone)).isoformat()


def delivery(row: OutboxRow, job: JobRow | None) -> dict[str, Any]:
    """Return one callback (`purpose` callback), message or alert, with its job (None for a direct
    call).

    `to` is a channel, or an address without its query, which may hold tokens. `next_at` is None
    unless the delivery is pending.
    """
    return {
        "id": row.id,
        "purpose": row.purpose,
        "event": row.event,
        "job": job.name if job else None,
        "job_removed": bool(job and job.archived_at),
        "run_id": row.run_id,
        "to": row.lane if row.purpose in ("callback", "wake") else row.address,
        "chat_id": row.chat_id,
        "status": row.status,
        "attempts": row.attempts,
        "next_at": utc_text(row.next_at) if row.status == Delivery.PENDING else None,
        "created_at": utc_text(row.created_at),
        "finished_at": utc_text(row.finished_at),
        "error": row.error,
        "note": row.note,
    }


def recipients(notify: Notify, alert_channel: str) -> dict[str, list[str]]:
    """Return the recipients of each event of a job: `{"completed": ["inbox"], "failed": [...], …}`.

    The operator receives a job's failures if the job's channel does not receive them.
    """
    channel = notify.channel
    if channel and notify.chat_id:
        channel += f" (chat {notify.chat_id})"
    from daybook.delivery.outbox import queue_of_url

    by_event: dict[str, list[str]] = {}
    for event in EVENTS:
        notified = event in notify.events and not notify.silent
        callback = notify.on_fail if event in ON_FAIL_EVENTS else notify.on_complete
        targets = [channel] if notified and channel else []
        if event == "failed" and not targets:
            targets = [alert_channel]
        targets += [queue_of_url(callback)] if notified and callback else []
        if targets:
            by_event[event] = targets
    return by_event


def callback_urls(notify: Notify) -> list[str]:
    """Return the callback addresses of a job."""
    return list(filter(None, (notify.on_complete, notify.on_fail)))
