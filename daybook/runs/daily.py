"""Totals of the ended runs of each day: outcomes, cost and tokens.

A thousand jobs may have seven thousand runs a day, so adding up a month takes a second.
`DailyTotals` therefore caches the totals of past days. Each read adds up today and yesterday, and a
past day only if its totals are missing or expired.
"""

from __future__ import annotations

import asyncio
import time as monotonic_time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import sqlalchemy
from sqlalchemy import ColumnElement, Select, func
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from daybook.jobs import stored_columns
from daybook.ledger.column_types import at_most, big_sum, json_number
from daybook.ledger.engine import Ledger
from daybook.ledger.states import LIVE
from daybook.ledger.tables import JobRow, RunRow
from daybook.ledger.views import Spending
from daybook.runs.usage import MAX_COUNT
from daybook.schedules.zones import midnight, wall_time
from daybook.usage import TOKENS

DAYS = 30
KEEP_SECONDS = 15 * 60
"""How long a past day's totals stay in the cache: a late outcome or retention can change them.

The totals of an older day stay longer, by 20 seconds for each day.
"""
_DAY = timedelta(days=1)
OPEN_DAYS = 2
"""Number of latest days that each read adds up anew, without the cache."""


@dataclass(frozen=True)
class Total:
    """The runs of one job that ended on ``day`` with one outcome, agent and model.

    ``count`` is the number of due times, ``runs`` the number of runs. ``cost_usd`` is the sum of
    the known costs; ``priced`` runs have a known cost, ``unpriced`` runs have usage at an unknown
    price. ``agent`` and ``model`` are empty if the runs have none.
    """

    day: date
    job_id: str | None
    status: str
    agent: str
    model: str
    count: int
    runs: int
    cost_usd: float
    priced: int
    unpriced: int
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int


class DailyTotals:
    """The totals of the last `DAYS` days in the zone ``tz``, with a cache for past days."""

    def __init__(self, ledger: Ledger, tz: ZoneInfo) -> None:
        self._ledger, self._tz = ledger, tz
        self._kept: dict[date, tuple[float, list[Total]]] = {}
        self._lock = asyncio.Lock()

    async def read(self) -> list[Total]:
        """Return the totals of the last `DAYS` days, oldest day first."""
        async with self._lock, self._ledger.read() as session:
            wanted = days(self._ledger.now(), self._tz)
            self._kept = {day: kept for day, kept in self._kept.items() if day in wanted}
            now = monotonic_time.monotonic()
            for number, day in enumerate(reversed(wanted)):
                kept = self._kept.get(day)
                # Days expire one after the other, so that no read has to add up all of them.
                is_kept = kept is not None and now - kept[0] < KEEP_SECONDS + 20 * number
                if number < OPEN_DAYS or not is_kept:
                    begin, end = midnight(day, self._tz), midnight(day + _DAY, self._tz)
                    self._kept[day] = now, await add_up(session, day, begin, end)
            return [total for day in wanted for total in self._kept[day][1]]


def days(now: datetime, tz: ZoneInfo) -> list[date]:
    """Return the last `DAYS` days in ``tz`` up to today, oldest first."""
    today = wall_time(now, tz).date()
    return [today - timedelta(days=number) for number in reversed(range(DAYS))]


async def add_up(
    session: AsyncSession, day: date, begin: datetime, end: datetime, owner: str | None = None
) -> list[Total]:
    """Return the totals, for the day ``day``, of the runs that ended in [``begin``, ``end``).

    With ``owner``, count only the runs of that owner's jobs.
    """
    jobs = sqlalchemy.select(col(JobRow.id)).where(col(JobRow.owner) == owner)
    is_visible = sqlalchemy.true() if owner is None else col(RunRow.job_id).in_(jobs)
    query = _add_up(_KEY, *_ended(begin, end), is_visible)
    return [Total(day, *row) for row in (await session.execute(query)).all()]


async def add_up_jobs(
    session: AsyncSession, job_ids: Collection[str], wanted: Sequence[date], tz: ZoneInfo
) -> list[Total]:
    """Return the totals of these jobs on ``wanted``, consecutive days in ``tz``, oldest first.

    One query reads the runs of these jobs, and no run of another job.
    """
    begins = [midnight(day, tz).astimezone(UTC) for day in wanted]
    latest_first = reversed(list(enumerate(begins)))
    number = sqlalchemy.case(*((col(RunRow.finished_at) >= at, each) for each, at in latest_first))
    in_days = _ended(begins[0], midnight(wanted[-1] + _DAY, tz))
    key = {"number": number, **_KEY}
    query = _add_up(key, *in_days, col(RunRow.job_id).in_(job_ids)).order_by("number")
    return [Total(wanted[day], *row) for day, *row in (await session.execute(query)).all()]


async def spending_by_job(
    session: AsyncSession, since: datetime, job_ids: Collection[str] | None = None
) -> dict[str | None, Spending]:
    """Return the spending of runs that ended since ``since`` (UTC), by job id.

    The key None stands for direct calls. ``job_ids`` are the jobs that the caller needs; the result
    may contain others. Jobs without usage since then are absent.
    """
    few = job_ids is not None and len(job_ids) <= stored_columns.MAX_IDS_PER_QUERY
    query = _add_up(
        {"job_id": col(RunRow.job_id)},
        col(RunRow.finished_at) >= since,
        col(RunRow.status).not_in(LIVE),
        col(RunRow.usage).is_not(None),
        col(RunRow.job_id).in_(job_ids or ()) if few else sqlalchemy.true(),
    )
    return {
        job: Spending(
            cost_usd=cost if priced else None,
            unpriced_runs=unpriced,
            **dict(zip(TOKENS, tokens, strict=True)),
        )
        for job, _, _, cost, priced, unpriced, *tokens in (await session.execute(query)).all()
    }


_KEY: dict[str, Any] = {
    "job_id": col(RunRow.job_id),
    "status": col(RunRow.status),
    "agent": func.coalesce(col(RunRow.agent), ""),
    "model": func.coalesce(col(RunRow.model), ""),
}


def _ended(begin: datetime, end: datetime) -> tuple[ColumnElement[bool], ...]:
    """Return the conditions for the runs that ended in [``begin``, ``end``)."""
    return (
        col(RunRow.finished_at) >= begin.astimezone(UTC),
        col(RunRow.finished_at) < end.astimezone(UTC),
        col(RunRow.status).not_in(LIVE),
    )


def _add_up(key: Mapping[str, Any], *conditions: Any) -> Select[Any]:
    """Return a query of ``key`` and of the fields of `Total` from `count` on, for each ``key``."""
    usage = col(RunRow.usage)
    # With an offset, even 0, PostgreSQL reads each number of the usage only once.
    runs = (
        sqlalchemy.select(
            *(each.label(name) for name, each in key.items()),
            col(RunRow.count).label("count"),
            usage.is_not(None).label("has_usage"),
            usage["cost_usd"].as_float().label("cost"),
            *(json_number(usage[name]).label(name) for name in TOKENS),
        )
        .where(*conditions)
        .offset(0)
        .subquery()
        .c
    )
    group = [runs[name] for name in key]
    priced = func.count(runs.cost)
    tokens = (func.coalesce(big_sum(at_most(runs[name], MAX_COUNT)), 0) for name in TOKENS)
    return sqlalchemy.select(
        *group,
        func.sum(runs["count"]),
        func.count(),
        func.coalesce(func.sum(runs.cost), 0.0),
        priced,
        func.count(sqlalchemy.case((runs.has_usage, 1))) - priced,
        *tokens,
    ).group_by(*group)


def spending(totals: Iterable[Total]) -> Spending:
    """Return the sum of ``totals``."""
    listed = list(totals)
    return Spending(
        cost_usd=sum(each.cost_usd for each in listed) if any(e.priced for e in listed) else None,
        **{name: sum(getattr(each, name) for each in listed) for name in TOKENS},
        unpriced_runs=sum(each.unpriced for each in listed),
    )
