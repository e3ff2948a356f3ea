"""Summaries of all jobs in one query, for lists that show a part of each job.

Reading a job as a `Job` validates all its fields. For a thousand jobs this takes half a second,
although a list of names, states and schedules needs almost none of these fields.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

import sqlalchemy
from sqlalchemy import ColumnElement, RowMapping, Select, String, case, func
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from daybook.jobs import stored_columns
from daybook.json_text import JsonObject
from daybook.ledger.column_types import at_most, is_json_number, json_number, valid_json
from daybook.ledger.tables import NEWEST_REVISION, JobRow, RevisionRow

MAX_TOKENS = 2**53
"""Maximum of the budget in a summary; a larger one is as good as none."""


@dataclass(frozen=True)
class JobSummary:
    """A live job as its rows store it; times are in UTC."""

    id: str
    name: str
    kind: str
    owner: str
    tags: list[str]
    enabled: bool
    disabled_reason: str
    agent: str
    runs_after: str | None
    revision: int
    last_run_id: str | None
    last_run_at: datetime | None
    last_status: str | None
    last_error: str | None
    consecutive_failures: int
    sync_pending: bool
    conflict: JsonObject | None
    snoozed_until: datetime | None


@dataclass(frozen=True)
class JobBudget:
    """The daily budget of a live job; 0 means no limit."""

    id: str
    name: str
    tokens_per_day: int
    usd_per_day: float


async def read(session: AsyncSession, owner: str | None = None) -> list[JobSummary]:
    """Return all live jobs, sorted by name; with ``owner``, return only that owner's jobs."""
    columns: dict[str, Any] = {
        each.name: col(getattr(table, each.name))
        for table in (RevisionRow, JobRow)
        for each in fields(JobSummary)
        if hasattr(table, each.name)
    }
    action = valid_json(col(RevisionRow.action))
    columns["agent"] = func.coalesce(action["agent"].as_string(), "")
    query = _live_jobs(owner, *(columns[each.name].label(each.name) for each in fields(JobSummary)))
    return [_summary(row) for row in (await session.execute(query)).mappings()]


async def read_budgets(session: AsyncSession, owner: str | None = None) -> list[JobBudget]:
    """Return the daily budgets of the live jobs that have one, sorted by the names of the jobs.

    With ``owner``, return only the budgets of that owner's jobs.
    """
    policy = valid_json(col(RevisionRow.policy))
    tokens, dollars = policy["tokens_per_day"], policy["usd_per_day"]
    # A budget may have any number of digits.
    budget = (is_json_number(tokens), at_most(json_number(tokens), MAX_TOKENS))
    query = _live_jobs(
        owner,
        col(JobRow.id),
        col(JobRow.name),
        case(budget, else_=0),
        case((is_json_number(dollars), dollars.as_float()), else_=0.0),
    ).where(_is_limit(tokens) | _is_limit(dollars))
    return [JobBudget(*row) for row in (await session.execute(query)).tuples()]


def _is_limit(element: Any) -> ColumnElement[bool]:
    """Return the condition that a JSON element is no zero; a cast to a number would cost more."""
    return sqlalchemy.cast(element.as_string(), String).not_in(("0", "0.0"))


def _live_jobs(owner: str | None, *columns: Any) -> Select[Any]:
    """Return a query of these columns of the live jobs and their newest revisions, by name."""
    query = (
        sqlalchemy.select(*columns)
        .join(RevisionRow, NEWEST_REVISION)
        .where(col(JobRow.archived_at).is_(None))
        .order_by(func.lower(col(JobRow.name)), col(JobRow.name))
    )
    return query if owner is None else query.where(col(JobRow.owner) == owner)


def _summary(row: RowMapping) -> JobSummary:
    tags = stored_columns.valid_tags(row["tags"])
    conflict = stored_columns.valid_conflict(row["conflict"])
    return JobSummary(**{**row, "tags": tags, "conflict": conflict})
