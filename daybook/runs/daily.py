"""Totals of the ended runs of each day: outcomes, cost and tokens.

A thousand jobs may have seven thousand runs a day, so adding up a month takes a second.
`DailyTotals` therefore caches the totals of past days. Each read adds up today and yesterday, and a
past day only if its totals are missing or expired.
"""

from __future__ import annotations

import asyncio
import time as monotonic_time
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import sqlalchemy
from sqlalchemy import func
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from daybook.jobs import stored_columns
from daybook.ledger.column_types import big_sum, json_count
from daybook.ledger.engine import Ledger
from daybook.ledger.states import LIVE
from daybook.ledger.tables import JobRow, RunRow
from daybook.ledger.views import TOKENS, Spending
from daybook.runs.usage import MAX_COUNT
from daybook.schedules.zones import midnight, wall_time

DAYS = 30
KEEP_SECONDS = 15 * 60
"""How long a past day's totals stay in the cache: a late outcome or retention can change them.

The totals of an older day stay longer, by 20 seconds for each day.
"""
_DAY = timedelta(days=1)
OPEN_DAYS = 2
"""Number of latest days that each read adds up anew, without the cache."""


_COST = col(RunRow.usage)["cost_usd"].as_float()
_SUMS = (
    func.coalesce(func.sum(_COST), 0.0),
    func.count(_COST),
    func.count(col(RunRow.usage)) - func.count(_COST),
    *(func.coalesce(big_sum(json_count(col(RunRow.usage)[name], MAX_COUNT)), 0) for name in TOKENS),
)
"""Sums of the usages of runs: the last fields of `Total`, from `cost_usd` on."""


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
    key = (
        col(RunRow.job_id),
        col(RunRow.status),
        func.coalesce(col(RunRow.agent), ""),
        func.coalesce(col(RunRow.model), ""),
    )
    jobs = sqlalchemy.select(col(JobRow.id)).where(col(JobRow.owner) == owner)
    query = (
        sqlalchemy.select(*key, func.sum(col(RunRow.count)), func.count(), *_SUMS)
        .where(
            col(RunRow.finished_at) >= begin.astimezone(UTC),
            col(RunRow.finished_at) < end.astimezone(UTC),
            col(RunRow.status).not_in(LIVE),
            sqlalchemy.true() if owner is None else col(RunRow.job_id).in_(jobs),
        )
        .group_by(*key)
    )
    return [Total(day, *row) for row in (await session.execute(query)).all()]


async def spending_by_job(
    session: AsyncSession, since: datetime, job_ids: Collection[str] | None = None
) -> dict[str | None, Spending]:
    """Return the spending of runs that ended since ``since`` (UTC), by job id.

    The key None stands for direct calls. ``job_ids`` are the jobs that the caller needs; the result
    may contain others. Jobs without usage since then are absent.
    """
    few = job_ids is not None and len(job_ids) <= stored_columns.MAX_IDS_PER_QUERY
    query = (
        sqlalchemy.select(col(RunRow.job_id), *_SUMS)
        .where(
            col(RunRow.finished_at) >= since,
            col(RunRow.status).not_in(LIVE),
            col(RunRow.usage).is_not(None),
            col(RunRow.job_id).in_(job_ids or ()) if few else sqlalchemy.true(),
        )
        .group_by(col(RunRow.job_id))
    )
    return {
        job: Spending(
            cost_usd=cost if priced else None,
            unpriced_runs=unpriced,
            **dict(zip(TOKENS, tokens, strict=True)),
        )
        for job, cost, priced, unpriced, *tokens in (await session.execute(query)).all()
    }


def spending(totals: Iterable[Total]) -> Spending:
    """Return the sum of ``totals``."""
    listed = list(totals)
    return Spending(
        cost_usd=sum(each.cost_usd for each in listed) if any(e.priced for e in listed) else None,
        **{name: sum(getattr(each, name) for each in listed) for name in TOKENS},
        unpriced_runs=sum(each.unpriced for each in listed),
    )
