"""Backfill: requested runs for past due times of a job."""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import islice
from typing import Any

from daybook import owners
from daybook.api import authorization, views
from daybook.errors import InvalidInput
from daybook.jobs import upcoming
from daybook.jobs.store import StoredJob
from daybook.ledger.engine import open_ledger
from daybook.runs import backfill
from daybook.schedules import bounds
from daybook.schedules.schedule import zone

MAX_DUE_TIMES = 1_000
TIME_HINT = "write 2026-11-01, 2026-11-01T09:00, or the same with an offset"


async def run(ref: str, start: str, end: str, *, dry_run: bool = False) -> dict[str, Any]:
    """Request runs for the past due times of a job from ``start`` to ``end``, both inclusive.

    Leave out due times whose run succeeded, is in progress, or was requested by an earlier
    backfill. Return `{"job", "dry_run", "asked", "left_out", "due": [{"utc", "local", "status"},
    …]}`, where `status` is the earlier status of that due time, or None. A worker executes the runs
    one after the other, after all scheduled runs. Works without Prefect. Raise `InvalidInput`.
    """
    async with open_ledger() as ledger:
        async with ledger.read() as session:
            stored = await authorization.find_job(session, ref)
            if owners.current_actor().is_agent:
                raise InvalidInput(
                    "backfill", "is for the operator only", "trigger the job instead"
                )
            if not stored.job.enabled:
                raise InvalidInput("job", "is disabled", f"run `daybook resume {ref}` first")
            due = _due_times(stored, start, end, ledger.now())
            statuses = await backfill.known_statuses(session, stored.id, due)
        eligible = sum(backfill.needs_run(statuses.get(each)) for each in due)
        requested = eligible if dry_run else await backfill.request_runs(ledger, stored, due)
    tz = zone(stored.job.schedule.timezone)
    rows = [
        {
            "utc": views.utc_text(each),
            "local": each.astimezone(tz).isoformat(),
            "status": statuses.get(each),
        }
        for each in due
    ]
    counts = {"asked": requested, "left_out": len(due) - requested}
    return {"job": stored.row.name, "dry_run": dry_run, **counts, "due": rows}


def _due_times(stored: StoredJob, start: str, end: str, now: datetime) -> list[datetime]:
    schedule, policy = stored.job.schedule, stored.job.policy
    first = bounds.read_moment("start", start, schedule.timezone, TIME_HINT)
    last = bounds.read_moment("end", end, schedule.timezone, TIME_HINT, last=True)
    if first is None or last is None:
        raise InvalidInput("start" if first is None else "end", "is empty", TIME_HINT)
    if first > now:
        raise InvalidInput("start", f'"{start}" is in the future', "use a time that has passed")
    if last < first:
        raise InvalidInput("end", f'"{end}" is before the start "{start}"')
    due = upcoming.between(schedule, policy, first - timedelta(seconds=1), min(last, now))
    due_times = list(islice(due, MAX_DUE_TIMES + 1))
    if len(due_times) > MAX_DUE_TIMES:
        raise InvalidInput(
            "start", f"the range has more than {MAX_DUE_TIMES:,} due times", "use a shorter range"
        )
    return due_times
