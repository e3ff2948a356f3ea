"""The next due times of a schedule, as `daybook.api` and `--json` show them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from itertools import islice
from typing import Annotated, Self

from pydantic import BaseModel, PlainSerializer

from daybook.instants import LocalTime, UtcTime
from daybook.schedules.schedule import Schedule, zone

DUE_TIMES_SHOWN = 5
"""Number of due times in the view of a job."""

ScheduleView = Annotated[
    Schedule, PlainSerializer(lambda schedule: schedule.to_json(), when_used="json")
]
"""A schedule; in JSON it has the fields of `to_json` in `daybook.schedules.schedule`."""


class DueTime(BaseModel, frozen=True):
    """One due time, in UTC and with the offset of the schedule's zone."""

    utc: UtcTime
    local: LocalTime


class DueTimes(BaseModel, frozen=True):
    """The next due times of a schedule; ``words`` describes the schedule."""

    schedule: ScheduleView
    words: str
    due: list[DueTime]

    @classmethod
    def of(cls, schedule: Schedule, upcoming: Iterable[datetime], count: int) -> Self:
        """Return the first ``count`` of the ``upcoming`` due times of ``schedule``."""
        tz = zone(schedule.timezone)
        due = [DueTime(utc=each, local=each.astimezone(tz)) for each in islice(upcoming, count)]
        return cls(schedule=schedule, words=schedule.describe(), due=due)
