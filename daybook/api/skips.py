"""Manual skips: skip the next due time of a job, or all due times before an instant (snooze).

Skipped due times stay due: each gets a row with the outcome `skipped` at its claim. Works without
Prefect.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from daybook.api import authorization, views
from daybook.errors import InvalidInput
from daybook.jobs import upcoming
from daybook.jobs.store import StoredJob
from daybook.ledger.engine import open_ledger
from daybook.schedules.schedule import one_time


async def skip(ref: str, *, undo: bool = False) -> dict[str, Any]:
    """Skip the job's next due time; a repeated call changes nothing. Return the job.

    With ``undo``, stop skipping due times. Raise `InvalidInput` for a job that has no next due
    time.
    """

    def change(stored: StoredJob, now: datetime) -> None:
        row, job = stored.row, stored.job
        to_come = [each for each in row.skips if datetime.fromisoformat(each) > now]
        if undo:
            to_come = []
        else:
            following = upcoming.next_due(
                job.schedule, job.policy, max(now, _snooze_end(stored, now))
            )
            if not job.enabled:
                raise InvalidInput(
                    "job",
                    "is disabled, so it has no due times",
                    f"run `daybook resume {ref}` first",
                )
            if following is None:
                raise InvalidInput("job", "has no further due time to skip")
            to_come = sorted({*to_come, following.isoformat()})
        row.skips = to_come

    return await _changed(ref, change)


async def snooze(ref: str, until: str | None) -> dict[str, Any]:
    """Skip all due times before ``until``, an RFC 3339 time or `in 2h`; None ends the snooze.

    A due time exactly at ``until`` runs. Return the job. Raise `InvalidInput`.
    """

    def change(stored: StoredJob, now: datetime) -> None:
        if until is None:
            stored.row.snoozed_until = None
            return
        try:
            moment = one_time(until, "until", stored.job.schedule.timezone, now)
        except InvalidInput as error:
            legal = "use a time such as 2027-01-15T09:00, or in 2h"
            raise InvalidInput("until", error.problem, legal) from error
        stored.row.snoozed_until = moment.at

    return await _changed(ref, change)


def _snooze_end(stored: StoredJob, now: datetime) -> datetime:
    """Return the instant after which due times are not snoozed."""
    until = stored.row.snoozed_until
    return now if until is None else until - views.ONE_MICROSECOND


async def _changed(ref: str, change: Callable[[StoredJob, datetime], None]) -> dict[str, Any]:
    async with open_ledger() as ledger:
        async with ledger.write() as session:
            stored = await authorization.find_job(session, ref)
            change(stored, ledger.now())
            session.add(stored.row)
        return views.job(stored, ledger.now())
