"""Summaries of all jobs in one query, for lists that show a part of each job.

Reading a job as a `Job` validates all its fields. For a thousand jobs this takes half a second,
although a list of names, states and schedules needs almost none of these fields.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

import sqlalchemy
from sqlalchemy import RowMapping, case, func
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from daybook.jobs import stored_columns
from daybook.json_text import JsonObject
from daybook.ledger.column_types import is_json_number, json_count, valid_json
from daybook.ledger.tables import NEWEST_REVISION, JobRow, RevisionRow

MAX_TOKENS = 2**53
"""Maximum of the budget in a summary; a larger one is as good as none."""


@dataclass(frozen=True)
class JobSummary:
    """A live job as its rows store it; times are in UTC.

    ``tokens_per_day`` and ``usd_per_day`` are limits; 0 means no limit.
    """

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
    action, policy = valid_json(col(RevisionRow.action)), valid_json(col(RevisionRow.policy))
    columns["agent"] = func.coalesce(action["agent"].as_string(), "")
    # A budget may have any number of digits.
    tokens, dollars = policy["tokens_per_day"], policy["usd_per_day"]
    budget = (is_json_number(tokens), json_count(tokens, MAX_TOKENS))
    columns["tokens_per_day"] = case(budget, else_=0)
    columns["usd_per_day"] = case((is_json_number(dollars), dollars.as_float()), else_=0.0)
    query = (
        sqlalchemy.select(*(columns[each.name].label(each.name) for each in fields(JobSummary)))
        .join(RevisionRow, NEWEST_REVISION)
        .where(col(JobRow.archived_at).is_(None))
        .order_by(func.lower(col(JobRow.name)), col(JobRow.name))
    )
    if owner is not None:
        query = query.where(col(JobRow.owner) == owner)
    return [_summary(row) for row in (await session.execute(query)).mappings()]


def _summary(row: RowMapping) -> JobSummary:
    tags = stored_columns.valid_tags(row["tags"])
    conflict = stored_columns.valid_conflict(row["conflict"])
    return JobSummary(**{**row, "tags": tags, "conflict": conflict})
