"""Taking over what was edited in Prefect."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from daybook.errors import Refused
from daybook.ledger import jobs
from daybook.ledger.engine import Ledger
from daybook.ledger.jobs import StoredJob
from daybook.spec.job import TAG_OF_OURS, Job
from daybook.spec.refusal import translated
from daybook.sync import projection
from daybook.sync.projection import Projection
from daybook.sync.report import Report

if TYPE_CHECKING:
    from prefect.client.schemas.responses import DeploymentResponse


async def pull(
    ledger: Ledger,
    stored: StoredJob,
    found: DeploymentResponse,
    fields: Collection[str],
    report: Report,
) -> StoredJob | None:
    """Take over the fields that were edited in Prefect: a revision from the time of each edit on.

    None when the job was changed in the ledger meanwhile.
    """
    theirs = projection.of_deployment(found)
    edits = _edits(found, fields, ledger.now())
    async with ledger.write() as session:
        now_so = await jobs.get(session, stored.id)
        if now_so is None or now_so.row.updated_at != stored.row.updated_at:
            return None
        for edited, names in edits:
            job = now_so.job
            for name in names:
                try:
                    job = _with(job, name, theirs, edited)
                except Refused as error:
                    # What cannot be a job's is not kept: the caller writes our version back.
                    report.refuse(job.name, str(error))
            job = jobs.with_new_time(now_so, job)
            off = now_so.job.enabled and not job.enabled
            why = "switched off in Prefect" if off else ""
            now_so = await jobs.change(
                session, now_so, job, edited, source="prefect", disabled_reason=why
            )
        return now_so


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
