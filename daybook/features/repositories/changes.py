"""The part of the query that detects changes of what the pages show (`daybook.api.changes`)."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Select, func
from sqlmodel import col

from daybook.api.changes import one_if, part
from daybook.features.repositories.tables import ChangeRow, ChangeStatus


def parts() -> list[Select[Any]]:
    """Return the query for the changes that wait or land."""
    row = ChangeRow
    open_ones = (ChangeStatus.WAITING, ChangeStatus.LANDING)
    return [
        part(
            "changes",
            func.count(col(row.run_id)),
            func.sum(one_if(col(row.status) == ChangeStatus.LANDING)),
            func.max(row.recorded_at),
            func.max(row.decided_at),
            func.sum(func.length(row.problem)),
        ).where(col(row.status).in_(open_ones))
    ]
