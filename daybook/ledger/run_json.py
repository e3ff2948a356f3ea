"""A run as a plain dictionary, for `--json` and for callbacks.

Instants are RFC 3339 texts in UTC.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from daybook.ledger.tables import JobRow, RunRow


def utc_text(instant: datetime | None) -> str | None:
    """Return `2027-01-15T13:30:00Z`, with a fraction if there is one."""
    return None if instant is None else instant.astimezone(UTC).isoformat().replace("+00:00", "Z")


def run(row: RunRow, job: JobRow | None) -> dict[str, Any]:
    """Return one run with its job (None for a direct call).

    `owner`, `user_id`, `tags` and `metadata` are those that the job has now. `started_at` is when
    the effect of its first attempt started; `job_removed` is True if `job` names a job that was
    removed. Adjacent missed due times are one run of `count`, from `scheduled_for` to
    `scheduled_to`; `scheduled_to` is None for any other run.
    """
    ended = row.finished_at or None
    duration = (ended - row.started_at).total_seconds() if ended and row.started_at else None
    return {
        "id": row.id,
        "job": job.name if job else None,
        "job_id": row.job_id,
        "job_removed": bool(job and job.archived_at),
        "owner": job.owner if job else None,
        "user_id": job.user_id if job else "",
        "tags": list(job.tags) if job else [],
        "metadata": dict(job.meta) if job else {},
        "kind": row.kind,
        "trigger": row.trigger,
        "status": row.status,
        "reason": row.reason,
        "delivery": row.delivery,
        "scheduled_for": utc_text(row.due),
        "scheduled_to": utc_text(row.due_to),
        "count": row.count,
        "queued_at": utc_text(row.queued_at),
        "started_at": utc_text(row.started_at),
        "finished_at": utc_text(row.finished_at),
        "duration_seconds": duration,
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
