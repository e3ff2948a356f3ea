"""Filters and sort orders of lists of jobs and runs.

The fields of `JobFilters` and `RunFilters` are options of `daybook list` and `daybook runs`, and
arguments of `Client.list` and `Client.runs`. A job or run must match all filters that are given.
To add a filter, write a field and its condition here; `make docs` adds it to `Client`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import datetime, time, timedelta
from typing import TYPE_CHECKING, Any, Self
from zoneinfo import ZoneInfo

from pydantic import BaseModel, Field

from daybook.errors import InvalidInput
from daybook.jobs.actions import ACTIONS
from daybook.ledger.states import FAILURES, TERMINAL, Status
from daybook.schedules import durations
from daybook.schedules.zones import check_year
from daybook.validation import raising_invalid_input

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement
    from sqlalchemy.ext.asyncio import AsyncSession

    from daybook.jobs.views import ListedJob

_SYNONYMS = {"on": "enabled", "off": "disabled", "paused": "disabled"}
_JOB_STATUSES = ("enabled", "disabled", Status.RUNNING.value, *sorted(TERMINAL))
_RUN_FAILURES = (*sorted(FAILURES), Status.MISSED.value)
_INSTANT_HINT = (
    "use a time such as 2026-11-20 or 2026-11-20T08:00, a time ago such as 2h, today or yesterday"
)

_JOB_ORDERS: dict[str, Callable[[ListedJob], Any]] = {
    "name": lambda job: (),
    "next": lambda job: _none_last(job.next_due[0] if job.next_due else None),
    "last": lambda job: _newest_first(job.last_run_at),
    "failures": lambda job: -job.consecutive_failures,
    "created": lambda job: _newest_first(job.created_at),
}
_RUN_ORDERS = {"due": "due", "began": "started_at", "ended": "finished_at"}
"""Sort orders of runs, and the column by which each sorts."""


class Selection(BaseModel, frozen=True, extra="forbid"):
    """Filters that select jobs or runs for a command with `--all`."""

    tag: list[str] = Field(
        default_factory=list, description="Only those with this tag. Repeatable: all must match."
    )
    owner: str | None = Field(None, description="Only those of this owner.")
    kind: str | None = Field(None, description=f"Only this kind. [choices: {', '.join(ACTIONS)}]")
    agent: str | None = Field(None, description="Only those that ask this agent.")


class _Filters(Selection, frozen=True):
    """Filters that lists of jobs and lists of runs have in common."""

    status: list[str] = []
    failing: bool = False
    since: str | None = None
    until: str | None = None
    sort: str = ""

    @classmethod
    def of(cls, given: dict[str, Any]) -> Self:
        """Return the filters with these fields. Raise `InvalidInput` for an unknown field."""
        with raising_invalid_input(cls.model_fields):
            return cls.model_validate(given)

    def _check(self, statuses: Iterable[str], legal: Sequence[str], orders: Iterable[str]) -> None:
        """Raise `InvalidInput` for a status, kind or sort order that does not exist."""
        for status in statuses:
            _check_choice("status", status, legal)
        if self.kind is not None:
            _check_choice("kind", self.kind, ACTIONS)
        _check_choice("sort", self.sort, orders)


class JobFilters(_Filters, frozen=True):
    """Filters of jobs, and the order of the list."""

    status: list[str] = Field(
        default_factory=list,
        description="Only jobs that are enabled, disabled or running, or whose last run ended with "
        "this outcome. Repeatable: any may match.",
    )
    name: str | None = Field(None, description="Only jobs whose name contains this text.")
    failing: bool = Field(False, description="Only jobs whose last runs failed.")
    since: str | None = Field(None, description="Only jobs whose last run was due since this time.")
    until: str | None = Field(
        None, description="Only jobs whose last run was due before this time."
    )
    sort: str = Field("name", description=f"Order of the jobs. [choices: {', '.join(_JOB_ORDERS)}]")

    def select(self, jobs: Iterable[ListedJob], now: datetime) -> list[ListedJob]:
        """Return the matching jobs, sorted by ``sort``.

        Raise `InvalidInput` for invalid filters.
        """
        statuses = {_SYNONYMS.get(each, each) for each in self.status}
        self._check(statuses, _JOB_STATUSES, _JOB_ORDERS)
        since, until = _range(self.since, self.until, now)

        def matches(job: ListedJob) -> bool:
            last = job.last_run_at
            return (
                (not statuses or not statuses.isdisjoint(_statuses(job)))
                and set(self.tag) <= set(job.tags)
                and self.owner in (None, job.owner)
                and self.kind in (None, job.kind)
                and self.agent in (None, getattr(job.action, "agent", ""))
                and (self.name or "").casefold() in job.name.casefold()
                and (not self.failing or job.consecutive_failures > 0)
                and (since is None or (last is not None and last >= since))
                and (until is None or (last is not None and last < until))
            )

        return sorted(filter(matches, jobs), key=_JOB_ORDERS[self.sort])


class RunFilters(_Filters, frozen=True):
    """Filters of runs, and the order of the list."""

    status: list[str] = Field(
        default_factory=list,
        description=f"Only runs with this status. Repeatable: any may match. "
        f"[choices: {', '.join(Status)}]",
    )
    failing: bool = Field(
        False, description="Only runs that failed, timed out, were missed, or ended unknown."
    )
    since: str | None = Field(None, description="Only runs that were due since this time.")
    until: str | None = Field(None, description="Only runs that were due before this time.")
    sort: str = Field(
        "due", description=f"Order of the runs, newest first. [choices: {', '.join(_RUN_ORDERS)}]"
    )

    async def conditions(
        self, session: AsyncSession, now: datetime
    ) -> tuple[list[ColumnElement[bool]], ColumnElement[Any]]:
        """Return the conditions on a run and its job, and the order of the runs.

        Raise `InvalidInput` for invalid filters.
        """
        from sqlmodel import col, select  # `daybook --help` does not need this import

        from daybook.ledger.tables import JobRow, RunRow

        self._check(self.status, list(Status), _RUN_ORDERS)
        since, until = _range(self.since, self.until, now)
        found: list[ColumnElement[bool]] = []
        statuses: Collection[str] = self.status
        if self.failing:
            found.append(col(RunRow.status).in_(_RUN_FAILURES))
        if statuses:
            found.append(col(RunRow.status).in_(statuses))
        if self.tag:  # queries of lists in JSON are not portable, and there are few jobs
            rows = (await session.execute(select(JobRow.id, JobRow.tags))).tuples()
            tagged = [job_id for job_id, tags in rows if set(self.tag) <= set(tags)]
            found.append(col(RunRow.job_id).in_(tagged))
        for column, value in (
            (JobRow.owner, self.owner),
            (RunRow.kind, self.kind),
            (RunRow.agent, self.agent),
        ):
            if value is not None:
                found.append(col(column) == value)
        if since is not None:
            found.append(col(RunRow.due) >= since)
        if until is not None:
            found.append(col(RunRow.due) < until)
        return found, col(getattr(RunRow, _RUN_ORDERS[self.sort])).desc().nulls_last()


def _statuses(job: ListedJob) -> set[str]:
    found = {"enabled" if job.enabled else "disabled", job.last_status or ""}
    return found | {Status.RUNNING.value} if job.running else found


def _check_choice(field: str, value: str, legal: Iterable[str]) -> None:
    names = list(map(str, legal))
    if value not in names:
        raise InvalidInput(field, f'"{value}" is not a {field}', f"use one of: {', '.join(names)}")


def _range(
    since: str | None, until: str | None, now: datetime
) -> tuple[datetime | None, datetime | None]:
    start = None if since is None else parse_instant("since", since, now)
    end = None if until is None else parse_instant("until", until, now)
    if start is not None and end is not None and start >= end:
        raise InvalidInput(
            "since and until", "no time is between them", "use an earlier time for since"
        )
    return start, end


def parse_instant(field: str, text: str, now: datetime, tz: ZoneInfo | None = None) -> datetime:
    """Return the instant that ``text`` means. A date, `today` or `yesterday` means its midnight.

    Dates, and times without an offset, are in the zone ``tz``; the default is this machine's zone.
    A duration such as `2h` means that long before ``now``. Raise `InvalidInput`, which names
    ``field``.
    """
    word = text.strip().lower().removesuffix(" ago")
    if word in ("today", "yesterday"):
        day = now.astimezone(tz).date() - timedelta(days=word == "yesterday")
        return _in_zone(datetime.combine(day, time()), tz)
    try:
        instant = datetime.fromisoformat(text.strip())
        check_year(instant)
        return instant if instant.tzinfo else _in_zone(instant, tz)
    except (ValueError, OverflowError):
        pass
    try:
        return now - durations.parse(word, field)
    except InvalidInput:
        raise InvalidInput(field, f'"{text}" is not a time', _INSTANT_HINT) from None


def _in_zone(local: datetime, tz: ZoneInfo | None) -> datetime:
    return local.astimezone() if tz is None else local.replace(tzinfo=tz)


def _none_last(instant: datetime | None) -> tuple[bool, float]:
    return instant is None, 0.0 if instant is None else instant.timestamp()


def _newest_first(instant: datetime | None) -> float:
    return 0.0 if instant is None else -instant.timestamp()
