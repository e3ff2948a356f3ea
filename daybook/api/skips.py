"""Manual skips: skip the next due time of a job, or all due times before an instant (snooze).

A skipped due time still gets an outcome: its claim, or the audit, records it as `skipped`. The
operations work without Prefect.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from daybook.api import authorization, jobs
from daybook.errors import InvalidInput
from daybook.jobs import upcoming
from daybook.jobs.store import StoredJob
from daybook.jobs.upcoming import ONE_MICROSECOND
from daybook.jobs.views import ListedJob
from daybook.ledger.engine import open_ledger
from daybook.schedules.schedule import one_time


async def skip(ref: str, *, undo: bool = False) -> ListedJob:
    """Skip the job's next due time. Return the job. A repeated call changes nothing.

    With ``undo``, remove the skips of all future due times; a snooze stays. Raise `NotFound` and
    `Ambiguous`. Without ``undo``, raise `InvalidInput` for a job that is disabled or has no further
    due time.
    """

    def change(stored: StoredJob, now: datetime) -> None:
        row, job = stored.row, stored.job
        # A past due time without an outcome may still get a catch-up run, so its skip stays.
        decided_until = min(row.audited_until, now)
        skips = {each for each in row.skips if datetime.fromisoformat(each) > decided_until}
        if undo:
            skips = {each for each in skips if datetime.fromisoformat(each) <= now}
        else:
            # A snooze does not cover a due time at its very end.
            snooze_end = row.snoozed_until - ONE_MICROSECOND if row.snoozed_until else now
            following = upcoming.next_due(job.schedule, job.policy, max(now, snooze_end))
            if not job.enabled:
                raise InvalidInput(
                    "job",
                    "is disabled, so it has no due times",
                    f"run `daybook resume {ref}` first",
                )
            if following is None:
                raise InvalidInput("job", "has no further due time to skip")
            skips.add(following.isoformat())
        row.skips = sorted(skips)

    return await _changed(ref, change)


async def snooze(ref: str, until: str | None) -> ListedJob:
    """Skip all due times of a job before ``until``; None ends the snooze. Return the job.

    ``until`` is an RFC 3339 time, a duration from now such as `2h`, or a day such as `tomorrow`,
    which means its start in the job's time zone. Raise `NotFound`, `Ambiguous`, and `InvalidInput`
    for an invalid or past time.
    """

    def change(stored: StoredJob, now: datetime) -> None:
        if until is None:
            stored.row.snoozed_until = None
            return
        stored.row.snoozed_until = _end_of_snooze(until, stored.job.schedule.timezone, now)

    return await _changed(ref, change)


def _end_of_snooze(text: str, timezone: str, now: datetime) -> datetime:
    legal = "use a time such as 2027-01-15T09:00, 2h, or tomorrow"
    if not text.strip():
        raise InvalidInput("until", "is empty", legal)
    refused: InvalidInput | None = None
    text = text.strip()
    for reading in (text, f"in {text}", f"{text} at 0:00"):
        try:
            return one_time(reading, "until", timezone, now).at
        except InvalidInput as error:
            # For "99999999d", only the second reading says that it is too long.
            if refused is None or (text[0].isdecimal() and refused.problem.endswith("ambiguous")):
                refused = error
    assert refused is not None
    raise InvalidInput("until", refused.problem, legal) from refused


async def _changed(ref: str, change: Callable[[StoredJob, datetime], None]) -> ListedJob:
    async with open_ledger() as ledger, ledger.write() as session:
        stored = await authorization.find_job(session, ref)
        change(stored, ledger.now())
        session.add(stored.row)
        return await jobs.view(session, stored, ledger.now())
