"""Import of edits made in Prefect, and of values that lost a conflict."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from daybook.errors import InvalidInput
from daybook.jobs import store
from daybook.jobs.labels import RESERVED_TAG_PREFIX
from daybook.jobs.model import Job
from daybook.jobs.store import StoredJob
from daybook.ledger.engine import Ledger
from daybook.prefect import links, projection
from daybook.prefect.diff import Difference
from daybook.prefect.parameter_schema import FLOW_DESCRIPTION
from daybook.prefect.projection import Projection
from daybook.prefect.report import ReconcileReport
from daybook.prefect.summary import without_summary
from daybook.processes import locations
from daybook.schedules.schedule import OnDemand
from daybook.validation import raising_invalid_input

if TYPE_CHECKING:
    from prefect.client.schemas.responses import DeploymentResponse


async def import_edits(
    ledger: Ledger,
    stored: StoredJob,
    found: DeploymentResponse,
    todo: Difference,
    report: ReconcileReport,
) -> bool:
    """Import the fields that were edited in Prefect, with one revision per time of an edit.

    The same transaction records the losing values of a conflict, because afterwards only the ledger
    has them. It also records the imported state as the last reconciled state. Otherwise, an edit
    that restores the earlier value would look like a change of the ledger, and Daybook would
    overwrite it. Return False, and import nothing, if the job was meanwhile changed in the ledger.
    """
    observed = projection.of_deployment(found)
    edits = _edits(found, todo.pull, ledger.now())
    async with ledger.write() as session:
        current = await store.get(session, stored.id)
        if current is None or current.row.updated_at != stored.row.updated_at:
            return False
        if todo.conflicts:
            links.record_conflict(current.row, todo.conflicts, ledger.now())
            session.add(current.row)
        for edited, names in edits:
            job = current.job
            for name in names:
                try:
                    with_field = _with_field(job, name, observed, edited)
                    await store.check_other_jobs(session, current.row.owner, with_field, job)
                    job = with_field
                    links.clear_invalid_value(current.row, name)
                except InvalidInput as error:
                    # Report a value that no job can have; the caller overwrites it with ours.
                    report.refuse(job.name, str(error))
                    losing = {name: observed.as_dict()[name]}
                    links.record_conflict(current.row, losing, ledger.now(), invalid=str(error))
                    session.add(current.row)
            job = store.enable_again(current, job)
            current = await store.change(
                session,
                current,
                job,
                ledger.now(),
                edited=edited,
                source="prefect",
                disabled_reason=_disabled_reason(current, job),
            )
        if todo.pull:
            ours = projection.of_job(current, ledger.id).as_dict()
            base = stored.row.synced or projection.of_job(stored, ledger.id).as_dict()
            imported = {name: ours[name] for name in todo.pull}
            current.row.deployment_id, current.row.synced = str(found.id), base | imported
            session.add(current.row)
    if todo.conflicts:
        report.conflict(stored.job.name, todo.conflicts)
    if current.row.updated_at != stored.row.updated_at:
        report.pulled.append(stored.job.name)
    return True


def without_defaults_of_deploy(
    difference: Difference, stored: StoredJob, found: DeploymentResponse, ledger_id: str
) -> Difference:
    """Return ``difference`` without the values that `prefect deploy` invents.

    If `prefect.yaml` says nothing about them, `prefect deploy` writes ``paused: false`` and the
    flow's description. So it neither ends a pause that was made in Daybook, nor replaces the job's
    description: both are sent to Prefect again. `prefect deploy` also replaces all tags by those of
    the file, so the ledger's tag is missing until the next write. A person who resumes the
    deployment in Prefect's UI keeps the tags.
    """
    invented = set()
    is_redeployed = projection.ledger_tag(ledger_id) not in (found.tags or ())
    paused_here = stored.row.disabled_reason not in links.REASONS_FROM_PREFECT
    if is_redeployed and not stored.job.enabled and paused_here:
        invented.add("enabled")
    if found.description == FLOW_DESCRIPTION:
        invented.add("description")
    conflicts = {
        name: value for name, value in difference.conflicts.items() if name not in invented
    }
    return Difference(tuple(each for each in difference.pull if each not in invented), conflicts)


async def accept_prefect_values(ledger: Ledger, job_id: str) -> None:
    """Resolve the job's conflict in favour of Prefect: the job gets the values that Prefect had.

    If no job can have these values, raise `InvalidInput` and write nothing. Do nothing if the job
    does not exist or has no conflict.
    """
    async with ledger.write() as session:
        stored = await store.get(session, job_id)
        if stored is None or stored.row.conflict is None:
            return
        fields, now = stored.row.conflict["fields"], ledger.now()
        kept = replace(projection.of_job(stored, ledger.id), **fields)
        if "foreign" in kept.schedule:
            projection.to_schedule(kept.schedule, "UTC", now)  # this raises, with its own message
        job = with_prefect_fields(stored.job, fields, kept, now)
        reason = _disabled_reason(stored, job)
        stored.row.conflict = None
        session.add(stored.row)
        await store.change(session, stored, job, now, source="prefect", disabled_reason=reason)


def _disabled_reason(before: StoredJob, job: Job) -> str:
    """Return the reason if this change disables the job; otherwise an empty string."""
    return links.SWITCHED_OFF_REASON if before.job.enabled and not job.enabled else ""


def with_prefect_fields(
    job: Job, fields: Iterable[str], theirs: Projection, edited: datetime
) -> Job:
    """Return ``job`` with the values that these fields have in Prefect since ``edited``.

    Raise `InvalidInput` if no job can have these values.
    """
    for name in fields:
        job = _with_field(job, name, theirs, edited)
    return job


def _edits(
    existing: DeploymentResponse, fields: Collection[str], now: datetime
) -> list[tuple[datetime, list[str]]]:
    """Return the edited fields by the server's time of the edit (UTC), oldest first.

    The time is never later than ``now`` (`promise.md`, "Revision"). A schedule has an update time
    of its own, which the deployment's update time does not reflect. If a schedule was deleted, the
    time of the edit is not known, and ``now`` replaces it.
    """
    ours = projection.own_schedule(existing)
    deployment, schedule = existing.updated, ours.updated if ours else None
    by_field: dict[str, datetime | None] = dict.fromkeys(fields, deployment)
    if "schedule" in by_field:
        by_field["schedule"] = schedule
    if "enabled" in by_field and not existing.paused:
        is_inactive = ours is not None and not ours.active
        times = [
            each for each in (schedule, None if is_inactive else deployment) if each is not None
        ]
        by_field["enabled"] = max(times, default=None)
    by_time: dict[datetime, list[str]] = {}
    for name, edited in by_field.items():
        at = now
        if edited:
            # Prefect's instants are pendulum objects, which lose the zone `datetime.UTC` on an
            # addition.
            at = min(now, datetime.fromisoformat(edited.isoformat()).astimezone(UTC))
        by_time.setdefault(at, []).append(name)
    return sorted(by_time.items())


def _with_field(job: Job, name: str, observed: Projection, edited: datetime) -> Job:
    match name:
        case "enabled":
            return job.model_copy(update={"enabled": observed.enabled})
        case "schedule" if "foreign" in observed.schedule:
            return job.model_copy(update={"schedule": OnDemand(timezone=job.schedule.timezone)})
        case "schedule":
            schedule = projection.to_schedule(observed.schedule, job.schedule.timezone, edited)
            return job.model_copy(update={"schedule": schedule})
        case "parameters":
            edited_job = job.with_parameters(observed.parameters)
            if edited_job.policy.work_dir != job.policy.work_dir:
                locations.check_job_folder(edited_job.policy.work_dir, must_exist=False)
            return edited_job
        case "tags":
            own_tags = [tag for tag in observed.tags if not tag.startswith(RESERVED_TAG_PREFIX)]
            with raising_invalid_input():
                return Job.model_validate({**dict(job), "tags": own_tags})
        case "description":
            text = without_summary(observed.description)
            return job.model_copy(update={"description": text})
    raise AssertionError(name)
