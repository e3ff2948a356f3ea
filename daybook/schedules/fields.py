"""The fields with which people write a schedule.

`schedules.schedule` describes how to add a kind of schedule.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field

from daybook.markers import Marker
from daybook.schedules.schedule import AfterOutcome


class ScheduleFields(BaseModel):
    """Fields of a schedule as a user sets it: exactly one kind of schedule, and the time zone."""

    cron: str = Field(
        default="",
        description='Cron expression, such as "0 9 * * 1-5" or @daily. If it has six fields, the '
        "first is seconds.",
    )
    every: str = Field(default="", description="Interval, such as 90s, 30m, 1h30m or 2d.")
    at: str = Field(
        default="",
        description="Time of a single run, such as 2027-01-15T14:30:00+01:00, "
        '"tomorrow at 9:00" or "in 30m".',
    )
    after: Annotated[str, Marker(names="job")] = Field(
        default="", description="Job to run after: once for each run that ended."
    )
    on: AfterOutcome = Field(
        default="succeeded", description="Outcome of that job which starts this one."
    )
    on_demand: bool = Field(default=False, description="Never due: runs are started by hand.")
    schedule: str = Field(
        default="",
        description='Cron expression ("0 9 * * 1-5", @daily; six fields: seconds first), '
        '"every 30m", "every weekday at 9:00", "tomorrow at 9:00", "in 30m" (once), '
        '"at 2027-01-15T14:30", "after morning-brief" or "on demand".',
    )
    timezone: Annotated[str, Marker(option="tz")] = Field(
        default="",
        description="IANA time zone, such as Europe/Berlin. Default: the setting DAYBOOK_TIMEZONE.",
    )
