"""The timeline of the last and the next 24 hours: each job's due times, with their outcomes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

import sqlalchemy
from pydantic import BaseModel
from sqlalchemy import func
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from daybook.api import authorization
from daybook.api.job_pages import Choice, matches
from daybook.instants import UtcTime
from daybook.jobs import store, summaries
from daybook.jobs.store import StoredJob
from daybook.jobs.summaries import JobSummary
from daybook.jobs.upcoming import between
from daybook.ledger.engine import open_ledger
from daybook.ledger.states import LIVE
from daybook.ledger.tables import RunRow
from daybook.runs import counts, history

PERIOD = timedelta(hours=24)
PER_PAGE = 40
MAX_MARKS = 6_000
"""Maximum number of runs on one page. If there are more, the earliest are omitted."""
MAX_UPCOMING = 48
"""Maximum number of future due times that the timeline shows for a job one by one.

If a job has more, the timeline shows the others as one band.
"""
MAX_RANGE = timedelta(days=2)
"""Maximum time by which a range of missed due times may start before the timeline."""


class Mark(BaseModel, frozen=True):
    """One due time, or a range of ``count`` due times up to ``due_to``, with its run.

    ``cost_usd`` is None if the cost is unknown or the run used no model.
    """

    run_id: str
    due: UtcTime
    due_to: UtcTime | None
    count: int
    status: str
    trigger: str
    reason: str
    started_at: UtcTime | None
    finished_at: UtcTime | None
    delivery: str
    cost_usd: float | None

    @property
    def duration_seconds(self) -> float | None:
        """Return the duration of the effect; None if the effect did not start or has not ended."""
        if self.started_at is None or self.finished_at is None:
            return None
        return (self.finished_at - self.started_at).total_seconds()


class Row(BaseModel, frozen=True):
    """The timeline of one job.

    ``marks`` are the due times that have passed or whose run is live. ``upcoming`` are the future
    due times (UTC). ``more`` is true if the job has further due times before the end of the
    timeline.
    """

    job_id: str
    name: str
    words: str
    enabled: bool
    last_status: str | None
    marks: list[Mark]
    upcoming: list[datetime]
    more: bool


class Timeline(BaseModel, frozen=True):
    """One page of the rows, in the order of `order`, and the outcomes of all jobs since ``start``.

    ``matching`` is the number of jobs on all pages. ``total`` is the number of all live jobs.
    ``ended`` has the numbers of these outcomes by status, and ``live`` the numbers of the live runs
    of all jobs by status.
    """

    start: UtcTime
    now: UtcTime
    end: UtcTime
    rows: list[Row]
    number: int
    pages: int
    matching: int
    total: int
    ended: dict[str, int]
    live: dict[str, int]


async def read(choice: Choice, number: int = 1) -> Timeline:
    """Return page ``number`` (from 1) of the timeline. Works without Prefect.

    If there are fewer pages, return the last page.
    """
    async with open_ledger() as ledger, ledger.read() as session:
        now = ledger.now()
        start, end = now - PERIOD, now + PERIOD
        listed = await summaries.read(session, authorization.visible_owner())
        running = await history.running_jobs(session)
        matching = order([each for each in listed if matches(each, choice, running)])
        pages = max(1, -(-len(matching) // PER_PAGE))
        number = min(max(1, number), pages)
        shown = matching[(number - 1) * PER_PAGE : number * PER_PAGE]
        ids = [each.id for each in shown]
        stored = {each.id: each for each in await store.read_all(session, ids)} if ids else {}
        marks = await _marks(session, ids, start) if ids else {}
        ended = await counts.outcome_counts_since(session, start)
        live = await counts.live_by_status(session)
    rows = [_row(stored[each.id], marks.get(each.id, []), now, end) for each in shown]
    return Timeline(
        start=start,
        now=now,
        end=end,
        rows=rows,
        number=number,
        pages=pages,
        matching=len(matching),
        total=len(listed),
        ended=ended,
        live=live,
    )


def order(jobs: Sequence[JobSummary]) -> list[JobSummary]:
    """Sort the jobs, stably: enabled before disabled, then failing before others."""
    return sorted(jobs, key=lambda each: (not each.enabled, not each.consecutive_failures))


def _row(stored: StoredJob, marks: list[Mark], now: datetime, end: datetime) -> Row:
    coming = _upcoming(stored, now, end) if stored.job.enabled else []
    return Row(
        job_id=stored.id,
        name=stored.row.name,
        words=stored.job.schedule.describe(),
        enabled=stored.job.enabled,
        last_status=stored.row.last_status,
        marks=marks,
        upcoming=coming[:MAX_UPCOMING],
        more=len(coming) > MAX_UPCOMING,
    )


async def _marks(
    session: AsyncSession, job_ids: Sequence[str], start: datetime
) -> dict[str | None, list[Mark]]:
    run = RunRow
    fields: dict[str, Any] = {
        name: col(getattr(run, name)) for name in Mark.model_fields if hasattr(run, name)
    }
    fields |= {"run_id": col(run.id), "cost_usd": col(run.usage)["cost_usd"].as_float()}
    query = (
        sqlalchemy.select(col(run.job_id), *fields.values())
        .where(
            col(run.job_id).in_(job_ids),
            col(run.due) >= start - MAX_RANGE,
            (func.coalesce(col(run.due_to), col(run.due)) >= start) | col(run.status).in_(LIVE),
        )
        .order_by(col(run.due).desc())
        .limit(MAX_MARKS)
    )
    found = defaultdict[str | None, list[Mark]](list)
    for job_id, *values in (await session.execute(query)).all():
        mark = Mark.model_construct(None, **dict(zip(fields, values, strict=True)))
        found[job_id].append(mark)
    return found


_cache: dict[tuple[str, int, datetime], tuple[datetime, ...]] = {}
_MAX_CACHED = 4_096
_MAX_KEPT = MAX_UPCOMING + 62
"""Maximum number of cached due times of a job.

If a job is due each minute, `MAX_UPCOMING` of its cached due times are still in the future after an
hour.
"""


def _upcoming(stored: StoredJob, now: datetime, end: datetime) -> list[datetime]:
    """Return up to `MAX_UPCOMING` + 1 due times in (now, end] that are not skipped or snoozed."""
    hour = now.replace(minute=0, second=0, microsecond=0)
    key = stored.id, stored.revision.number, hour
    if (known := _cache.get(key)) is None:
        if len(_cache) >= _MAX_CACHED:
            _cache.clear()
        job = stored.job
        coming = between(job.schedule, job.policy, hour, hour + PERIOD + timedelta(hours=1))
        known = _cache[key] = tuple(islice(coming, _MAX_KEPT))
    start = max(now, stored.row.snoozed_until or now)

    def first(coming: Iterable[datetime]) -> list[datetime]:
        skips = stored.row.skips
        found = (each for each in coming if start < each <= end and each.isoformat() not in skips)
        return list(islice(found, MAX_UPCOMING + 1))

    found = first(known)
    if len(known) == _MAX_KEPT and len(found) <= MAX_UPCOMING:
        # The cache does not contain all due times of this job.
        found = first(between(stored.job.schedule, stored.job.policy, start, end))
    return found
