"""Content with which a job's watch compares its source.

The watch saw it at its first check of the source, or before the last run that succeeded. A change
counts as seen only when the run that it started has succeeded. So a run that fails, or whose
process dies, does not lose the change: the next due time, or a Retry, finds it again.
"""

from __future__ import annotations

import json
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncSession

from daybook.ledger.tables import RunRow, WatchRow
from daybook.policies.checks import Check


def source_of(check: Check) -> str:
    """Return the source that the check watches, as text; empty if the check is not a watch."""
    return check.watch_url or (json.dumps(check.watch_command) if check.watch_command else "")


async def last_seen(session: AsyncSession, job_id: str, check: Check) -> str | None:
    """Return the content that the job's watch saw last; None if it has not seen its source yet."""
    if not check.is_watch:
        return None
    row = await session.get(WatchRow, job_id)
    return row.content if row is not None and row.source == source_of(check) else None


async def record(session: AsyncSession, run: RunRow, check: Check) -> None:
    """Record the content that ``run`` found as seen by its job's watch.

    ``check`` is the current check of the job. Ignore content of another source, and content that is
    older than the recorded content.
    """
    found = run.found or {}
    if not run.job_id or "source" not in found or found["source"] != source_of(check):
        return
    seen_at = datetime.fromisoformat(found["at"])
    row = await session.get(WatchRow, run.job_id)
    if row is None:
        row = WatchRow(job_id=run.job_id, source="", content="", seen_at=seen_at)
    elif row.source == found["source"] and row.seen_at > seen_at:
        return
    row.source, row.content, row.seen_at = found["source"], found["check"], seen_at
    session.add(row)
