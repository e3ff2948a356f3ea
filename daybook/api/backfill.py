"""Backfill: runs requested for past due times of a job."""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import islice

from pydantic import BaseModel

from daybook import owners
from daybook.api import authorization
from daybook.errors import InvalidInput
from daybook.jobs import upcoming
from daybook.jobs.store import StoredJob
from daybook.ledger.engine import open_ledger
from daybook.ledger.states import Status
from daybook.runs import backfill
from daybook.schedules import bounds
from daybook.schedules.due_times import DueTime
from daybook.schedules.schedule import zone

MAX_DUE_TIMES = 1_000
TIME_HINT = "use a time such as 2026-11-01 or 2026-11-01T09:00 (the offset is optional)"


class PastDueTime(DueTime, frozen=True):
    """A past due time, and the status that its run had before the backfill.

    ``status`` is None if the due time has no row of its own.
    """

    status: Status | None


class BackfillResult(BaseModel, frozen=True):
    """The past due times of a job, and the numbers of requested runs and of other due times.

    ``asked`` is the number of runs that the backfill requested; with ``dry_run``, it is the number
    of runs that a backfill would request. ``left_out`` is the number of the other due times: those
    of `runs.backfill.missing_runs` that need no run.
    """

    job: str
    dry_run: bool
    asked: int
    left_out: int
    due: list[PastDueTime]


async def run(ref: str, start: str, end: str, *, dry_run: bool = False) -> BackfillResult:
    """Request runs for the past due times of a job from ``start`` to ``end``, both inclusive.

    If ``end`` is a day, the whole day is included. A time without an offset is in the job's time
    zone. Omit a due time if its run succeeded or is live, if an earlier backfill requested its run,
    or if its run will still start late by the catch-up policy. Workers execute the requested runs
    after all scheduled runs, and one after the other unless the job's overlap policy is `allow`.
    With ``dry_run``, request nothing. Works without Prefect.

    Raise `NotFound` and `Ambiguous`. Raise `InvalidInput` for an agent, a disabled job, an invalid
    or future ``start``, an invalid ``end``, or a range with more than `MAX_DUE_TIMES` due times.
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
            now = ledger.now()
            due = _due_times(stored, start, end, now)
            statuses = await backfill.known_statuses(session, stored.id, due)
            requested = len(await backfill.missing_runs(session, stored, due, now))
        if not dry_run:
            requested = await backfill.request_runs(ledger, stored, due)
    tz = zone(stored.job.schedule.timezone)
    return BackfillResult(
        job=stored.row.name,
        dry_run=dry_run,
        asked=requested,
        left_out=len(due) - requested,
        due=[
            PastDueTime(utc=each, local=each.astimezone(tz), status=statuses.get(each))
            for each in due
        ],
    )


def _due_times(stored: StoredJob, start: str, end: str, now: datetime) -> list[datetime]:
    schedule, policy = stored.job.schedule, stored.job.policy
    first = bounds.read_moment("start", start, schedule.timezone, TIME_HINT)
    last = bounds.read_moment("end", end, schedule.timezone, TIME_HINT, last=True)
    if first is None or last is None:
        raise InvalidInput("start" if first is None else "end", "is empty", TIME_HINT)
    if first > now:
        raise InvalidInput("start", f'"{start}" is in the future', "use a time in the past")
    if last < first:
        raise InvalidInput("end", f'"{end}" is before the start "{start}"')
    due = upcoming.between(schedule, policy, first - timedelta(seconds=1), min(last, now))
    due_times = list(islice(due, MAX_DUE_TIMES + 1))
    if len(due_times) > MAX_DUE_TIMES:
        raise InvalidInput(
            "start", f"the range has more than {MAX_DUE_TIMES:,} due times", "use a shorter range"
        )
    return due_times
