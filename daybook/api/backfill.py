"""Due times of the past, run by hand (requirement 25)."""

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

MOST = 1_000
LEGAL = "write 2026-11-01, 2026-11-01T09:00, or the same with an offset"


async def run(ref: str, start: str, end: str, *, dry_run: bool = False) -> dict[str, Any]:
    """Ask for the job's due times from ``start`` to ``end``, both included, as far as they passed.

    Left out is what has succeeded, is under way, or was asked for by a backfill before. The answer
    is `{"job", "dry_run", "asked", "left_out", "due": [{"utc", "local", "status"}, …]}`, where
    `status` is what was known of that due time before, or None. A worker carries them out, one
    after the other, behind all that is scheduled. Needs no Prefect. Raises `InvalidInput`.
    """
    async with open_ledger() as ledger:
        async with ledger.read() as session:
            stored = await authorization.job(session, ref)
            if owners.current().is_agent:
                raise InvalidInput(
                    "backfill", "is the operator's to ask for", "trigger it in its place"
                )
            if not stored.job.enabled:
                raise InvalidInput("job", "is off, so nothing is run", f"`daybook resume {ref}`")
            due = _due_times(stored, start, end, ledger.now())
            before = await backfill.known(session, stored.id, due)
        wanted = sum(backfill.is_wanted(before.get(each)) for each in due)
        asked = wanted if dry_run else await backfill.ask(ledger, stored, due)
    tz = zone(stored.job.schedule.timezone)
    told = [
        {
            "utc": views.utc(each),
            "local": each.astimezone(tz).isoformat(),
            "status": before.get(each),
        }
        for each in due
    ]
    counts = {"asked": asked, "left_out": len(due) - asked}
    return {"job": stored.row.name, "dry_run": dry_run, **counts, "due": told}


def _due_times(stored: StoredJob, start: str, end: str, now: datetime) -> list[datetime]:
    schedule, policy = stored.job.schedule, stored.job.policy
    first = bounds.moment("start", start, schedule.timezone, LEGAL)
    last = bounds.moment("end", end, schedule.timezone, LEGAL, last=True)
    if first is None or last is None:
        raise InvalidInput("start" if first is None else "end", "is empty", LEGAL)
    if first > now:
        raise InvalidInput("start", f'"{start}" has not passed yet', "what is to come is scheduled")
    if last < first:
        raise InvalidInput("end", f'"{end}" is before from, "{start}"')
    due = upcoming.between(schedule, policy, first - timedelta(seconds=1), min(last, now))
    found = list(islice(due, MOST + 1))
    if len(found) > MOST:
        raise InvalidInput(
            "start", f"more than {MOST:,} due times lie there", "take a shorter range"
        )
    return found
