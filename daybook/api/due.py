"""Next due times of a job, or of a schedule without a job.

`of_schedule` uses neither Prefect nor the ledger. The other functions read the ledger.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from daybook import api
from daybook.clock import SYSTEM_CLOCK
from daybook.errors import InvalidInput
from daybook.schedules import bounds, due
from daybook.schedules.due_times import DUE_TIMES_SHOWN, DueTimes
from daybook.schedules.schedule import Every, make, parse, zone
from daybook.schedules.zones import check_year

MAX_COUNT = 1_000


def of_schedule(
    *,
    schedule: str | None = None,
    timezone: str | None = None,
    after: str | None = None,
    count: int = DUE_TIMES_SHOWN,
    **fields: Any,
) -> DueTimes:
    """Return up to ``count`` due times of a schedule without a job, after ``after`` (default: now).

    Pass the schedule as the text ``schedule``, which `schedule.parse` reads, or pass one of the
    fields `cron`, `every` and `at`. ``after`` is an RFC 3339 time; the intervals of `every` start
    there. ``timezone`` (default: the setting) is the zone of the schedule and of times without an
    offset. Raise `InvalidInput`.
    """
    name = timezone or _default_zone()
    start = _after(after, name)
    now = start if "every" in fields else SYSTEM_CLOCK.now()
    if "at" in fields and after is not None:
        now = min(start, now)
    if schedule is None:
        found = make(**fields, timezone=name, now=now)
    else:
        if fields:
            given = " and ".join(["schedule", *fields])
            raise InvalidInput(given, "cannot be combined", "use only one of them")
        is_given = timezone is not None
        found = parse(schedule, timezone=name, now=min(start, now), is_zone_given=is_given)
        if isinstance(found, Every):
            found = parse(schedule, timezone=name, now=start)
    return DueTimes.of(found, due.due_times(found, after=start), _valid_count(count))


async def of_changes(
    changes: Mapping[str, object], ref: str | None = None, count: int = DUE_TIMES_SHOWN
) -> DueTimes:
    """Return up to ``count`` due times that a job would have with ``changes``; store nothing.

    If ``ref`` is None, the job is a new one. Only changes of the schedule and of its bounds have an
    effect on the result. Raise `NotFound`, `Ambiguous`, `InvalidInput`.
    """
    from daybook.jobs.model import edit, new_job
    from daybook.jobs.upcoming import starts
    from daybook.ledger.engine import open_ledger
    from daybook.schedules.fields import ScheduleFields

    when = {*ScheduleFields.model_fields, *bounds.FIELDS}
    given = {name: value for name, value in changes.items() if name in when}
    async with open_ledger() as ledger, ledger.read() as session:
        now = ledger.now()
        if ref is None:
            job = new_job(now=now, default_timezone=_default_zone(), prompt="-", on_demand=True)
        else:
            job = (await api.authorization.find_job(session, ref)).job
    edited = edit(job, given, now=now)
    upcoming = starts(edited.schedule, edited.policy, now)
    return DueTimes.of(edited.schedule, upcoming, _valid_count(count))


async def of_job(ref: str, *, after: str | None = None, count: int = DUE_TIMES_SHOWN) -> DueTimes:
    """Return up to ``count`` due times of a job after ``after`` (default: now).

    ``after`` is an RFC 3339 time; without an offset, it is in the job's time zone. Skipped and
    snoozed due times are left out, and a disabled job counts as enabled. Raise `NotFound`,
    `Ambiguous`, `InvalidInput`.
    """
    from daybook.jobs.views import due_times_of
    from daybook.ledger.engine import reading

    async with reading() as session:
        stored = await api.authorization.find_job(session, ref)
    start = _after(after, stored.job.schedule.timezone)
    return due_times_of(stored, start, _valid_count(count))


def _default_zone() -> str:
    # This import is slower than all imports that a schedule without a job needs.
    from daybook import settings

    return settings.load().timezone


def _after(text: str | None, timezone: str) -> datetime:
    if text is None:
        return SYSTEM_CLOCK.now()
    try:
        instant = datetime.fromisoformat(text)
        check_year(instant)
    except ValueError:
        legal = "use a time such as 2027-01-15T14:30:00+01:00 (the offset is optional)"
        raise InvalidInput("after", f'"{text}" is not an RFC 3339 time', legal) from None
    return instant if instant.tzinfo else instant.replace(tzinfo=zone(timezone))


def _valid_count(count: int) -> int:
    if not 1 <= count <= MAX_COUNT:
        raise InvalidInput("count", f"{count} is out of range", f"use 1 to {MAX_COUNT}")
    return count
