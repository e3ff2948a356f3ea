"""Jobs and runs as plain dictionaries: the shapes that `--json` prints (`docs/design.md`).

Instants are RFC 3339 texts: due times with the offset of the job's zone, all others in UTC.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any

from daybook.spec import durations
from daybook.spec.policy import Policy
from daybook.spec.schedule import At, Cron, Every, Schedule, zone
from daybook.spec.upcoming import due_times
from daybook.spec.words import in_words

if TYPE_CHECKING:
    from daybook.ledger.jobs import StoredJob
    from daybook.ledger.tables import JobRow, RunRow
    from daybook.spec.job import Job

TICK = timedelta(microseconds=1)
NEXT = 5
"""How many due times a job is shown with."""


def utc(instant: datetime | None) -> str | None:
    """`2027-01-15T13:30:00Z`, with a fraction where there is one."""
    return None if instant is None else instant.astimezone(UTC).isoformat().replace("+00:00", "Z")


def due(
    schedule: Schedule,
    after: datetime,
    count: int,
    policy: Policy | None = None,
    skips: Collection[str] = (),
) -> list[dict[str, str]]:
    """The next ``count`` due times after ``after`` within the policy, as `{"utc", "local"}`.

    Those in ``skips`` are left out.
    """
    tz = zone(schedule.timezone)
    found = due_times(schedule, policy or Policy(), after=after)
    wanted = (each for each in found if each.isoformat() not in skips)
    return [
        {"utc": str(utc(each)), "local": each.astimezone(tz).isoformat()}
        for each in islice(wanted, count)
    ]


def coming(stored: StoredJob, after: datetime, count: int) -> list[dict[str, str]]:
    """The same of a job, without what was put off by hand."""
    job, snoozed = stored.job, stored.row.snoozed_until
    start = after if snoozed is None else max(after, snoozed - TICK)
    return due(job.schedule, start, count, job.policy, stored.row.skips)


def schedule(value: Schedule) -> dict[str, Any]:
    """`{"kind", "expr" | "every" | "at", "timezone"}`."""
    plain: dict[str, Any] = {"kind": value.kind}
    match value:
        case Cron():
            plain["expr"] = value.expr
        case Every():
            plain["every"] = durations.to_text(value.every)
            plain["anchor"] = utc(value.anchor)
        case At():
            plain["at"] = value.at.astimezone(zone(value.timezone)).isoformat()
        case _:
            pass
    return plain | {"timezone": value.timezone}


def job(stored: StoredJob, now: datetime) -> dict[str, Any]:
    """One job; `next_due` is empty for a disabled one.

    `skips` and `snoozed_until` are left out where they have passed. `conflicts` are the fields that
    were changed on both sides and nobody has decided; `prefect_own` says in words which schedules
    Prefect keeps for itself.
    """
    row, spec, snoozed = stored.row, stored.job, stored.row.snoozed_until
    upcoming = coming(stored, now, NEXT) if spec.enabled else []
    return {
        "id": row.id,
        "name": row.name,
        "kind": row.kind,
        "enabled": spec.enabled,
        "disabled_reason": row.disabled_reason,
        "deployment": f"{row.kind}/{row.slug}",
        "schedule": schedule(spec.schedule),
        "words": in_words(spec.schedule),
        "next_due": [each["local"] for each in upcoming],
        "skips": [
            _local(spec, each) for each in map(datetime.fromisoformat, row.skips) if each > now
        ],
        "snoozed_until": _local(spec, snoozed) if snoozed and snoozed > now else None,
        "description": row.description,
        "tags": list(row.tags),
        "owner": row.owner,
        **spec.parameters(),
        "sync": "pending" if row.sync_pending else "synced",
        "conflicts": sorted((row.conflict or {}).get("fields", {})),
        "prefect_own": list((row.synced or {}).get("foreign", [])),
        "created_at": utc(row.created_at),
        "updated_at": utc(row.updated_at),
        "removed_at": utc(row.archived_at),
        "last_run_id": row.last_run_id,
        "last_run_at": utc(row.last_run_at),
        "last_status": row.last_status,
        "last_error": row.last_error,
        "run_count": row.run_count,
        "consecutive_failures": row.consecutive_failures,
    }


def _local(job: Job, instant: datetime) -> str:
    return instant.astimezone(zone(job.schedule.timezone)).isoformat()


def run(row: RunRow, job: JobRow | None) -> dict[str, Any]:
    """One run, and its job (None for a direct call).

    `started_at` is when its first attempt began to act; `job_removed` is whether `job` is the name
    of one that is no longer there. Adjacent due times that nobody was there for are one run of
    `count`, from `scheduled_for` to `scheduled_to`; of any other that is None.
    """
    ended = row.finished_at or None
    lasted = (ended - row.started_at).total_seconds() if ended and row.started_at else None
    return {
        "id": row.id,
        "job": job.name if job else None,
        "job_removed": bool(job and job.archived_at),
        "kind": row.kind,
        "trigger": row.trigger,
        "status": row.status,
        "reason": row.reason,
        "delivery": "not_requested",
        "scheduled_for": utc(row.due),
        "scheduled_to": utc(row.due_to),
        "count": row.count,
        "queued_at": utc(row.queued_at),
        "started_at": utc(row.started_at),
        "finished_at": utc(row.finished_at),
        "duration_seconds": lasted,
        "attempts": row.attempts,
        "output": row.output,
        "result": row.result,
        "error": row.error,
        "session_id": row.session_id,
        "agent": row.agent,
        "model": row.model,
        "usage": row.usage or {},
        "flow_run_id": row.flow_run_id,
        "occurrence": row.occurrence,
        "retry_of": row.retry_of,
    }
