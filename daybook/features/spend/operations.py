"""Cost of ended runs, added up by job, agent, model or day."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date, datetime, timedelta
from typing import Any, Literal, Self, cast, get_args
from zoneinfo import ZoneInfo

from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncSession

from daybook import settings
from daybook.api import authorization, filters
from daybook.errors import InvalidInput
from daybook.instants import UtcTime
from daybook.jobs import limits, store, summaries
from daybook.ledger.engine import open_ledger
from daybook.ledger.views import Spending
from daybook.policies.budgets import HomeBudget, Limit, Scope, Unit
from daybook.runs import budget, daily
from daybook.runs.daily import Total
from daybook.schedules.zones import midnight, wall_time, zone

Grouping = Literal["job", "agent", "model", "day"]
GROUPINGS: tuple[str, ...] = get_args(Grouping)

_GROUP_FIELDS = {"job": "job_id", "agent": "agent", "model": "model"}
"""The field of a total by which each grouping but that by day groups."""

MAX_DAYS = 400
"""Maximum age of ``since``, in days."""


class GroupSpending(Spending, frozen=True):
    """Cost of the runs of one job, agent, model or day.

    ``name`` is the name of the job, agent or model ("" if unknown), or the day as `2027-01-15`.
    ``job_id`` is None unless the group is a job. ``runs`` is the number of runs that used a model.
    """

    name: str
    job_id: str | None = None
    runs: int

    @classmethod
    def add_up(cls, totals: Iterable[Total], name: str, job_id: str | None = None) -> Self:
        """Return the sum of ``totals`` as the cost of the group ``name``."""
        listed = list(totals)
        runs = sum(each.priced + each.unpriced for each in listed)
        spending = daily.spending(listed).model_dump()
        return cls(name=name, job_id=job_id, runs=runs, **spending)

    def label(self, by: str) -> str:
        """Return the name for a person. ``by`` is the grouping. A question may have no job."""
        return self.name or ("without a job" if by == "job" else "unknown")


class BudgetUse(BaseModel, frozen=True):
    """Today's use of a daily budget, including the requests in progress.

    ``scope`` is job, agent or home. ``unit`` is tokens or usd (US dollars). ``name`` is the name of
    the job or agent; None for the home. The price of the ``unpriced`` requests is unknown, so
    ``used`` does not contain them.
    """

    scope: Scope
    name: str | None
    job_id: str | None
    unit: Unit
    used: float
    limit: float
    unpriced: int

    def words(self) -> str:
        """Return the use as a text such as `all runs: $1.20 of $5 per day`."""
        limit = Limit(self.scope, self.unit, self.limit)
        name = self.name or "all runs"
        if self.scope == "agent":
            name = f"the agent {name}"
        unpriced = f", and {self.unpriced} requests of unknown price" if self.unpriced else ""
        return f"{name}: {limit.used(self.used)}{unpriced}"

    @property
    def share(self) -> float:
        return self.used / self.limit


class SpendingReport(BaseModel, frozen=True):
    """Cost of the runs that ended between ``since`` and ``until``.

    ``groups`` are sorted by cost, the highest first; groups by day are sorted by day. ``budgets``
    are today's budgets, for any ``since``. An agent that may not see all jobs gets only the budgets
    of its own jobs.
    """

    since: UtcTime
    until: UtcTime
    by: Grouping
    total: GroupSpending
    groups: list[GroupSpending]
    budgets: list[BudgetUse]


async def read(by: str = "job", since: str | None = None) -> SpendingReport:
    """Return the cost of the runs that ended after ``since``, by default in the last 30 days.

    ``by`` is one of `GROUPINGS`. ``since`` has the form of `daybook runs --since`. Days, and times
    without an offset, are in the zone `DAYBOOK_TIMEZONE`. Works without Prefect. Raise
    `InvalidInput`.
    """
    if by not in GROUPINGS:
        raise InvalidInput("by", f'"{by}" is no grouping', f"use {', '.join(GROUPINGS)}")
    tz = zone(settings.load().timezone)
    async with open_ledger() as ledger, ledger.read() as session:
        now, owner = ledger.now(), authorization.visible_owner()
        begin = midnight(daily.days(now, tz)[0], tz)
        if since is not None:
            begin = filters.parse_instant("since", since, now, tz)
        if now - begin > timedelta(days=MAX_DAYS):
            problem = f"is more than {MAX_DAYS} days ago"
            raise InvalidInput("since", problem, f"use {MAX_DAYS}d or less")
        names = await store.all_names(session, owner)
        totals = []
        for first, last in _parts(begin, now, tz.key if by == "day" else ""):
            day = wall_time(first, tz).date()
            totals += await daily.add_up(session, day, first, last, owner)
        budgets = await budgets_of(session, wall_time(now, tz).date(), tz)
    return SpendingReport(
        since=begin,
        until=now,
        by=cast("Grouping", by),
        total=GroupSpending.add_up(totals, ""),
        groups=grouped(totals, by, names),
        budgets=budgets,
    )


async def budgets_today() -> list[BudgetUse]:
    """Return the use of all daily budgets that the actor may see. Works without Prefect."""
    tz = zone(settings.load().timezone)
    async with open_ledger() as ledger, ledger.read() as session:
        return await budgets_of(session, wall_time(ledger.now(), tz).date(), tz)


async def budgets_of(session: AsyncSession, day: date, tz: ZoneInfo) -> list[BudgetUse]:
    """Return the use on ``day`` of the budgets of the jobs that the actor may see.

    If the actor may see all jobs, add the budgets of agents and of the home.
    """
    owner = authorization.visible_owner()
    home = HomeBudget() if owner else limits.load_rules().budget
    jobs = await summaries.read_budgets(session, owner)
    return [
        BudgetUse(
            scope=each.limit.scope,
            name=each.name,
            job_id=each.job_id,
            unit=each.limit.unit,
            used=each.used,
            limit=each.limit.most,
            unpriced=each.unpriced,
        )
        for each in await budget.of_day(session, jobs, home, day, tz)
    ]


def _parts(begin: datetime, end: datetime, timezone: str) -> Iterable[tuple[datetime, datetime]]:
    """Return the days between two instants as pairs of instants.

    A day starts at midnight in ``timezone``. If ``timezone`` is empty, return a single pair.
    """
    first = begin
    while timezone:
        tz = zone(timezone)
        following = midnight(wall_time(first, tz).date() + timedelta(days=1), tz)
        if following >= end:
            break
        yield first, following
        first = following
    yield first, end


def grouped(
    totals: Iterable[Total], by: str, names: Mapping[str, str] | None = None
) -> list[GroupSpending]:
    """Return the sums of the totals for each group of ``by`` (one of `GROUPINGS`).

    Omit runs that used no model. ``names`` maps the ids of jobs to their names.
    """
    return add_up_first(groups(totals, by), by, names or {})


def add_up_first(
    found: Mapping[str | None, list[Total]],
    by: str,
    names: Mapping[str, str],
    most: int | None = None,
) -> list[GroupSpending]:
    """Return the sums of the first ``most`` groups of ``found``, by default of all, in order."""

    def name(group: str | None) -> str:
        return names.get(group or "", group or "")

    def place(group: str | None) -> Any:
        return name(group) if by == "day" else (*_rank(found[group]), name(group))

    return [
        GroupSpending.add_up(
            found[group], name(group), group if by == "job" and group in names else None
        )
        for group in sorted(found, key=place)[:most]
    ]


def groups(totals: Iterable[Total], by: str) -> dict[str | None, list[Total]]:
    """Return the totals of the runs that used a model, by job id, agent, model or day."""
    found: dict[str | None, list[Total]] = {}
    for each in totals:
        if each.priced or each.unpriced:
            key = str(each.day) if by == "day" else getattr(each, _GROUP_FIELDS[by])
            found.setdefault(key, []).append(each)
    return found


def _rank(totals: Iterable[Total]) -> tuple[float, int]:
    """Return the key that sorts groups: the highest cost first, then the most tokens."""
    cost, tokens = 0.0, 0
    for each in totals:
        cost += each.cost_usd
        tokens += each.input_tokens + each.output_tokens
    return -cost, -tokens
