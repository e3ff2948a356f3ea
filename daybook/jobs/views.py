"""Models of jobs, as `daybook.api` returns them and `--json` prints them.

`--json` prints the same fields in the same order, except ``action``. JSON and the result of
`model_dump` have the action's fields in its place, so a model cannot be validated from them.
Instants are in UTC; due times have the offset of the job's zone.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, cast

from pydantic import (
    BaseModel,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
)

from daybook.instants import LocalTime, UtcTime
from daybook.jobs.actions import Action
from daybook.jobs.notify import Notify
from daybook.jobs.upcoming import starts
from daybook.json_text import JsonObject
from daybook.ledger.views import NOTHING_SPENT, Run, Spending, columns
from daybook.policies.policy import Policy
from daybook.schedules.due_times import DUE_TIMES_SHOWN, DueTimes, ScheduleView
from daybook.schedules.zones import display_zone, is_known

if TYPE_CHECKING:
    from daybook.jobs.model import Job
    from daybook.jobs.store import StoredJob

SPENDING_PERIOD = timedelta(days=30)
"""Period of `ListedJob.spent_30_days`: runs that ended within this period count."""


def due_times_of(stored: StoredJob, after: datetime, count: int) -> DueTimes:
    """Return up to ``count`` due times after ``after`` that are not skipped or snoozed."""
    job, row = stored.job, stored.row
    upcoming = starts(job.schedule, job.policy, after, row.skips, row.snoozed_until)
    return DueTimes.of(job.schedule, upcoming, count)


class ListedJob(BaseModel, frozen=True):
    """A job as Daybook lists it.

    ``running`` is True if a run of the job is claimed or running. ``next_due`` is empty if the job
    is disabled, and has one due time in a list of jobs. ``skips`` and ``snoozed_until`` omit past
    times. ``conflicts`` are the names of the fields that were changed in both the ledger and
    Prefect, and whose conflict is unresolved. ``prefect_own`` describes schedules in Prefect that a
    job cannot express. ``spent_30_days`` is the spending of the job's runs that ended in the last
    `SPENDING_PERIOD`.
    """

    id: str
    name: str
    kind: str
    enabled: bool
    running: bool
    disabled_reason: str
    deployment: str
    schedule: ScheduleView
    words: str
    next_due: list[LocalTime]
    skips: list[LocalTime]
    snoozed_until: LocalTime | None
    description: str
    tags: list[str]
    metadata: JsonObject = Field(repr=False)
    owner: str
    user_id: str
    created_by: str
    action: Action
    policy: Policy
    notify: Notify = Field(repr=False)
    sync: Literal["pending", "synced"]
    conflicts: list[str]
    prefect_own: list[str]
    created_at: UtcTime
    updated_at: UtcTime
    removed_at: UtcTime | None
    last_run_id: str | None
    last_run_at: UtcTime | None
    last_status: str | None
    last_error: str | None
    run_count: int
    consecutive_failures: int
    spent_30_days: Spending

    @staticmethod
    def of(
        stored: StoredJob,
        now: datetime,
        *,
        running: bool,
        spent: Spending = NOTHING_SPENT,
        due_times: int = DUE_TIMES_SHOWN,
    ) -> ListedJob:
        """Return the view of the job at ``now``; ``running`` is True if a run is in progress.

        If this machine does not have the job's time zone, ``words`` names this problem, and no due
        time is next. ``spent`` is the spending of the runs that ended in the last
        `SPENDING_PERIOD`; ``due_times`` is the maximum number of next due times.
        """
        row, job, snoozed = stored.row, stored.job, stored.row.snoozed_until
        tz, words = display_zone(job.schedule.timezone), job.schedule.describe()
        has_zone = is_known(job.schedule.timezone)
        if not has_zone:
            words += f" (not due: this machine has no time zone {job.schedule.timezone})"
        is_due = job.enabled and has_zone
        skips, conflict, synced, reason = row.skips, row.conflict, row.synced, row.disabled_reason
        if stored.problem is not None:  # these columns may be invalid
            skips, conflict, synced = [], None, None
            words, reason = "cannot be read", str(stored.problem)
        upcoming = starts(job.schedule, job.policy, now, skips, snoozed) if is_due else ()
        skipped = map(datetime.fromisoformat, skips)
        # A copy is not validated, as a stored job is valid; `model_construct` takes much longer.
        return _BLANK_JOB.model_copy(
            update=columns(ListedJob, row)
            | vars(job)
            | {
                "disabled_reason": reason,
                "running": running,
                "deployment": f"{row.kind}/{row.slug}",
                "tags": list(job.tags),
                "words": words,
                "next_due": [each.astimezone(tz) for each in islice(upcoming, due_times)],
                "skips": [each.astimezone(tz) for each in skipped if each > now],
                "snoozed_until": snoozed.astimezone(tz) if snoozed and snoozed > now else None,
                "sync": "pending" if row.sync_pending else "synced",
                "conflicts": sorted((conflict or {}).get("fields", {})),
                "prefect_own": list((synced or {}).get("foreign", [])),
                "removed_at": row.archived_at,
                "spent_30_days": spent,
            }
        )

    @model_serializer(mode="wrap")
    def _with_fields_of_the_action(self, handler: SerializerFunctionWrapHandler) -> JsonObject:
        flat: JsonObject = {}
        for name, value in handler(self).items():
            flat |= value if name == "action" else {name: value}
        return flat


_BLANK_JOB = ListedJob.model_construct(**cast(Any, dict.fromkeys(ListedJob.model_fields)))
"""Base of the copies that `ListedJob.of` returns; it sets the order of the fields."""


class FieldChange(BaseModel, frozen=True):
    """A changed field, with its values before and after the change as JSON."""

    field: str
    old: Any
    new: Any


def changes_between(old: Job, new: Job) -> list[FieldChange]:
    """Return the fields in which two versions of a job differ; the schedule is given in words."""
    before, after = _flat(old), _flat(new)
    return [
        FieldChange(field=name, old=before.get(name), new=value)
        for name, value in after.items()
        if value != before.get(name)
    ]


def _flat(job: Job) -> JsonObject:
    fields = job.model_dump(mode="json", exclude={"kind", "schedule"})
    action, policy, notify = (fields.pop(each) for each in ("action", "policy", "notify"))
    return {"schedule": job.schedule.describe(), **fields, **action, **policy, **notify}


class ChangedJob(ListedJob, frozen=True):
    """A job that was added or changed.

    ``recipients`` maps each event to its recipients: `{"completed": ["inbox"], "failed": [...]}`.
    ``changes`` are the changed fields, empty for a new job; ``notes`` are hints for the user.
    """

    recipients: dict[str, list[str]]
    changes: list[FieldChange] = Field(repr=False)
    notes: list[str]


class JobDetails(ListedJob, frozen=True):
    """A job with its last run and its next due time, each of which may be None.

    ``recipients`` are as in `ChangedJob`.
    """

    last_run: Run | None
    next_run: LocalTime | None
    recipients: dict[str, list[str]]
