"""Taking over what was edited in Prefect, and keeping what loses there."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from daybook.errors import InvalidInput
from daybook.jobs import store
from daybook.jobs.model import TAG_OF_OURS, Job
from daybook.jobs.store import StoredJob
from daybook.ledger.engine import Ledger
from daybook.prefect import links as records
from daybook.prefect import projection
from daybook.prefect.diff import Plan
from daybook.prefect.projection import Projection
from daybook.prefect.report import Report
from daybook.schedules.schedule import OnDemand
from daybook.validation import translated

if TYPE_CHECKING:
    from prefect.client.schemas.responses import DeploymentResponse


async def pull(
    ledger: Ledger,
    stored: StoredJob,
    found: DeploymentResponse,
    todo: Plan,
    report: Report,
) -> StoredJob | None:
    """Take over the fields that were edited in Prefect: a revision from the time of each edit on.

    What loses a conflict is kept in the same transaction: afterwards only the ledger has it. None
    when the job was changed in the ledger meanwhile.
    """
    theirs = projection.of_deployment(found)
    edits = _edits(found, todo.pull, ledger.now())
    async with ledger.write() as session:
        now_so = await store.get(session, stored.id)
        if now_so is None or now_so.row.updated_at != stored.row.updated_at:
            return None
        if todo.conflicts:
            records.keep_losing(now_so.row, todo.conflicts, ledger.now())
            session.add(now_so.row)
        for edited, names in edits:
            job = now_so.job
            for name in names:
                try:
                    job = _with(job, name, theirs, edited)
                except InvalidInput as error:
                    # What cannot be a job's is told: the caller writes our version back.
                    report.refuse(job.name, str(error))
                    losing = {name: theirs.as_dict()[name]}
                    records.keep_losing(now_so.row, losing, ledger.now())
                    session.add(now_so.row)
            job = store.with_new_time(now_so, job)
            now_so = await store.change(
                session,
                now_so,
                job,
                ledger.now(),
                edited=edited,
                source="prefect",
                disabled_reason=_why(now_so, job),
            )
        return now_so


async def take_losing(ledger: Ledger, job_id: str) -> None:
    """Decide the job's conflict for Prefect: what it held then is what the job is from now on.

    Raises `InvalidInput` for what no job can be; nothing is written then. Nothing happens without a
    conflict.
    """
    async with ledger.write() as session:
        stored = await store.get(session, job_id)
        if stored is None or stored.row.conflict is None:
            return
        fields, now = stored.row.conflict["fields"], ledger.now()
        theirs = replace(projection.of_job(stored, ledger.id), **fields)
        if "foreign" in theirs.schedule:
            projection.schedule_of(theirs.schedule, "UTC", now)  # refused, in its words
        job = taken_over(stored.job, fields, theirs, now)
        why = _why(stored, job)
        stored.row.conflict = None
        session.add(stored.row)
        await store.change(session, stored, job, now, source="prefect", disabled_reason=why)


def _why(before: StoredJob, job: Job) -> str:
    """The reason by which the job is off from now on."""
    return "switched off in Prefect" if before.job.enabled and not job.enabled else ""


def taken_over(job: Job, fields: Iterable[str], theirs: Projection, edited: datetime) -> Job:
    """``job`` with these fields as Prefect holds them. Raises `InvalidInput`."""
    for name in fields:
        job = _with(job, name, theirs, edited)
    return job


def _edits(
    found: DeploymentResponse, fields: Collection[str], now: datetime
) -> list[tuple[datetime, list[str]]]:
    """The edited fields by the server's time of the edit, oldest first.

    Never later than now (`promise.md`, "Revision"). A schedule has a time of its own, which its
    deployment's does not follow; that of a deleted schedule nobody knows.
    """
    ours = projection.our_schedule(found)
    deployment, schedule = found.updated, ours.updated if ours else None
    by_field: dict[str, datetime | None] = dict.fromkeys(fields, deployment)
    if "schedule" in by_field:
        by_field["schedule"] = schedule
    if "enabled" in by_field and not found.paused:
        off = ours is not None and not ours.active
        known = [each for each in (schedule, None if off else deployment) if each is not None]
        by_field["enabled"] = max(known, default=None)
    by_time: dict[datetime, list[str]] = {}
    for name, edited in by_field.items():
        by_time.setdefault(min(now, _plain(edited)) if edited else now, []).append(name)
    return sorted(by_time.items())


def _plain(instant: datetime) -> datetime:
    # Prefect's are of pendulum, which in the zone of `datetime.UTC` loses it on an addition.
    return datetime.fromisoformat(instant.isoformat()).astimezone(UTC)


def _with(job: Job, name: str, theirs: Projection, edited: datetime) -> Job:
    match name:
        case "enabled":
            return job.model_copy(update={"enabled": theirs.enabled})
        case "schedule" if "foreign" in theirs.schedule:
            return job.model_copy(update={"schedule": OnDemand(timezone=job.schedule.timezone)})
        case "schedule":
            schedule = projection.schedule_of(theirs.schedule, job.schedule.timezone, edited)
            return job.model_copy(update={"schedule": schedule})
        case "parameters":
            return job.with_parameters(theirs.parameters)
        case "tags":
            own = [tag for tag in theirs.tags if not tag.startswith(TAG_OF_OURS)]
            with translated():
                return Job.model_validate({**dict(job), "tags": own})
        case _:
            text = projection.own_description(theirs.description)
            return job.model_copy(update={"description": text})
