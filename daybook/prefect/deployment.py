"""Reads and writes of one job's deployment in Prefect.

`write` patches an existing deployment, and only the fields that differ. The patch does not change
the ids of the deployment's schedules, so an open page of the UI keeps working, and Prefect does not
queue a due time twice. The patch does not change other schedules or the fields that only Prefect
has, such as the concurrency limit. To remove our schedule, `write` posts the deployment again,
because deleting a schedule by itself would delete late runs too.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from uuid import UUID
from weakref import WeakKeyDictionary

from slugify import slugify

from daybook.clock import SYSTEM_CLOCK
from daybook.jobs.actions import ACTIONS
from daybook.jobs.lateness import ON_TIME_GRACE
from daybook.jobs.store import StoredJob
from daybook.json_text import JsonObject
from daybook.prefect import parameter_schema, projection, work_queues
from daybook.prefect.projection import SCHEDULE_SLUG, Projection
from daybook.schedules.due import next_due

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient
    from prefect.client.schemas.objects import FlowRun, State
    from prefect.client.schemas.responses import DeploymentResponse

MAX_NAMES = 20
"""Maximum number of names in one check; a check misses deployments that users create after it."""
MIN_QUEUED = timedelta(hours=1)
"""Minimum time ahead for which Prefect queues runs; `prefect.corrections` relies on it."""
_TICK = timedelta(microseconds=1)
_ROUTING_FIELDS = ("work_pool_name", "work_queue_name")
_flow_ids: WeakKeyDictionary[PrefectClient, dict[str, str]] = WeakKeyDictionary()
"""Ids of Daybook's flows, by the client that requested them."""


async def read(client: PrefectClient, deployment_id: str) -> DeploymentResponse | None:
    """Return one deployment, or None if it does not exist."""
    from prefect.exceptions import ObjectNotFound

    try:
        return await client.read_deployment(UUID(deployment_id))
    except ObjectNotFound:
        return None


async def read_by_name(client: PrefectClient, kind: str, slug: str) -> DeploymentResponse | None:
    """Return the deployment with this name, of any ledger, or None if it does not exist."""
    from prefect.exceptions import ObjectNotFound

    try:
        return await client.read_deployment_by_name(f"{kind}/{slug}")
    except ObjectNotFound:
        return None


async def taken_names(
    client: PrefectClient, names: Collection[tuple[str, str]]
) -> set[tuple[str, str]]:
    """Return the pairs of flow and slug in ``names`` that a deployment may already have.

    One request checks up to `MAX_NAMES` pairs. If a deployment of any of the flows has a slug,
    return all pairs with this slug.
    """
    assert len(names) <= MAX_NAMES
    slugs = sorted({slug for _, slug in names})
    response = await client.request(
        "POST",
        "/deployments/filter",
        json={
            "flows": {"name": {"any_": sorted({kind for kind, _ in names})}},
            "deployments": {"name": {"any_": slugs}},
        },
    )
    found = {str(each["name"]) for each in response.json()}
    return {(kind, slug) for kind, slug in names if slug in found}


def is_ours(found: DeploymentResponse, ledger_id: str) -> bool:
    """Return whether ``found`` has this ledger's tag and the entrypoint of a Daybook flow.

    A copy made in the UI has the tag, but no entrypoint.
    """
    entrypoints = {parameter_schema.entrypoint(kind) for kind in ACTIONS}
    return projection.ledger_tag(ledger_id) in found.tags and found.entrypoint in entrypoints


def execution_fields_differ(stored: StoredJob, found: DeploymentResponse) -> bool:
    """Return whether the deployment's execution fields or its queue differ from the job's."""
    return bool(_changed_execution_fields(stored, found))


def _execution_fields(stored: StoredJob, existing: DeploymentResponse | None) -> JsonObject:
    """Return the execution fields of the deployment in the job's pool, or in the present one.

    In another pool than Daybook's, the pull steps and the queue are the operator's, because its
    workers may need other steps. The flow claims for itself there.
    """
    fields = parameter_schema.execution_fields(stored.row.kind)
    fields |= {"job_variables": _job_variables(stored, existing)}
    present = existing.work_pool_name if existing else None
    pool = stored.job.policy.pool or present or parameter_schema.WORK_POOL
    if pool == parameter_schema.WORK_POOL:
        return fields | {"work_queue_name": work_queues.queue_of(stored.job, existing)}
    fields |= {"work_pool_name": pool, "work_queue_name": work_queues.DEFAULT_QUEUE}
    if existing is not None and present == pool:
        fields |= {"pull_steps": existing.pull_steps, "work_queue_name": existing.work_queue_name}
    return fields


def _job_variables(stored: StoredJob, existing: DeploymentResponse | None) -> JsonObject:
    """Return the deployment's variables: those of the job, and others that the operator set.

    The job has named the others neither in the last agreement nor in the last write, whose
    parameters the deployment has.
    """
    ours = stored.job.policy.job_variables
    present = dict(existing.job_variables or {}) if existing else {}
    if existing is None or not present:
        return ours
    policy = (existing.parameters or {}).get("policy")
    written = policy.get("job_variables") if isinstance(policy, dict) else None
    named = {*(written if isinstance(written, dict) else ()), *projection.named_variables(stored)}
    return {name: each for name, each in present.items() if name not in named} | ours


def _changed_execution_fields(stored: StoredJob, existing: DeploymentResponse) -> JsonObject:
    fields = _execution_fields(stored, existing)
    changed = {name: value for name, value in fields.items() if getattr(existing, name) != value}
    if changed.keys() & _ROUTING_FIELDS:
        # Prefect finds a queue by both names; with one name alone, it would find a queue of another
        # pool.
        changed |= {name: fields[name] for name in _ROUTING_FIELDS}
    return changed


async def write(
    client: PrefectClient,
    stored: StoredJob,
    wanted: Projection,
    found: DeploymentResponse | None,
    changed: Collection[str] = (),
    *,
    is_new: bool = False,
) -> str:
    """Create the deployment, or set its ``changed`` fields as in ``wanted``; return its id.

    ``found`` is the existing deployment, or None. Also correct the fields that define how the job
    runs. Each write deletes the future runs that Prefect had queued. So request scheduling at once.
    Start from the job's last change if it is recent, so that no due time is lost. Late runs stay as
    they are. If the job ``is_new`` and not due soon, request nothing: Prefect's scheduler scans all
    deployments once a minute, and queues the runs of many deployments in one transaction.
    """
    ours = projection.own_schedule(found) if found else None
    if found is None or ("schedule" in changed and ours is not None and not wanted.schedule):
        deployment_id = await _create(client, stored, wanted, found)
    else:
        deployment_id = str(found.id)
        await _update(client, stored, wanted, found, changed)
    if not (is_new and found is None) or _is_due_soon(stored):
        await request_scheduling(client, stored, wanted, found, deployment_id)
    return deployment_id


async def request_scheduling(
    client: PrefectClient,
    stored: StoredJob,
    wanted: Projection,
    found: DeploymentResponse | None,
    deployment_id: str,
) -> None:
    """Request that Prefect queues the next runs at once; Prefect adds the runs that are missing.

    This includes the schedules that stay Prefect's own, because a write deletes their runs too.
    ``found`` is the deployment before the write, None if there was none. Do nothing if the job is
    disabled or there is no schedule.
    """
    if wanted.enabled and (wanted.schedule or (found is not None and found.schedules)):
        await client.request(
            "POST",
            "/deployments/{id}/schedule",
            path_params={"id": deployment_id},
            json={"start_time": _schedule_from(stored).isoformat()},
        )


def _is_due_soon(stored: StoredJob) -> bool:
    """Return whether the job is due within `MIN_QUEUED`, or was due since its last change."""
    end = SYSTEM_CLOCK.now() + MIN_QUEUED
    due = stored.job.schedule.only_due or next_due(stored.job.schedule, _schedule_from(stored))
    return due is not None and due <= end


def _schedule_from(stored: StoredJob) -> datetime:
    """Return the time from which Prefect should queue runs.

    It is the job's last change if a due time since then can still be on time; otherwise now, so
    that the hundred runs that Prefect queues lie in the future. For a one-time job, it is always
    the change, because the claim decides even about a late run.
    """
    now, changed = SYSTEM_CLOCK.now(), stored.revision.effective_from
    one_time = stored.job.schedule.only_due is not None
    # One tick later, because an interval is not due at its anchor, and a change at a whole second
    # may be that anchor.
    return min(now, changed + _TICK) if one_time or now - changed <= ON_TIME_GRACE else now


def _schedule_body(stored: StoredJob, target: Projection, *, slug: bool) -> JsonObject:
    """Return our schedule as a request body; with ``slug``, it always gets a slug.

    The UI shows a slug instead of the schedule's description, so otherwise only a schedule that the
    UI describes badly gets one (a one-time job, cron with seconds). Pass ``slug`` if our schedule
    must be distinguished from others, or already has a slug, which Prefect cannot remove.
    """
    (schedule,) = projection.to_prefect_schedules(target.schedule)
    ours = stored.job.schedule
    needs_slug = slug or not ours.prefect_describes_it
    slug_text = slugify(f"{SCHEDULE_SLUG}-{ours.describe()}") if needs_slug else None
    return {"schedule": schedule.model_dump(mode="json"), "active": True, "slug": slug_text}


async def _create(
    client: PrefectClient,
    stored: StoredJob,
    target: Projection,
    existing: DeploymentResponse | None,
) -> str:
    """Create the deployment, or post it again, which keeps its id and replaces all its schedules.

    Post the schedules that are not ours again, without changes. Fields that the request omits stay
    as they are. So this function does not use the client's own method, which sends all fields.
    """
    from prefect.exceptions import PrefectHTTPStatusError

    ours = projection.own_schedule(existing) if existing else None
    kept_fields = {"schedule", "active", "parameters", "slug"}
    other_schedules = [
        each.model_dump(mode="json", include=kept_fields, exclude_none=True)
        for each in (existing.schedules if existing else ())
        if each is not ours
    ]
    body: JsonObject = {
        "name": stored.row.slug,
        "flow_id": await _flow_id(client, stored.row.kind),
        "schedules": [_schedule_body(stored, target, slug=bool(other_schedules))]
        if target.schedule
        else [],
        "paused": not target.enabled,
        "parameters": target.parameters,
        "tags": target.tags,
        "description": target.description,
        **_execution_fields(stored, existing),
    }
    body["schedules"] += other_schedules
    try:
        response = await client.request("POST", "/deployments/", json=body)
    except PrefectHTTPStatusError as error:
        # Prefect refuses the id of a flow that was deleted, or that was in an earlier database.
        if error.response.status_code != HTTPStatus.CONFLICT:
            raise
        _flow_ids.pop(client, None)
        body["flow_id"] = await _flow_id(client, stored.row.kind)
        response = await client.request("POST", "/deployments/", json=body)
    return str(response.json()["id"])


async def _flow_id(client: PrefectClient, kind: str) -> str:
    """Return the id of a flow of Daybook; Prefect creates the flow if it does not exist."""
    known = _flow_ids.setdefault(client, {})
    if kind not in known:
        known[kind] = str(await client.create_flow_from_name(kind))
    return known[kind]


async def _update(
    client: PrefectClient,
    stored: StoredJob,
    target: Projection,
    existing: DeploymentResponse,
    changed: Collection[str],
) -> None:
    ours = projection.own_schedule(existing)
    has_others = any(each is not ours for each in existing.schedules)
    activates = target.enabled and ours is not None and not ours.active
    body = _changed_execution_fields(stored, existing)
    simple_fields = ("parameters", "tags", "description")
    body |= {name: getattr(target, name) for name in simple_fields if name in changed}
    writes_schedule = "schedule" in changed or activates
    if writes_schedule or "enabled" in changed:
        # Write `paused` first, so that activating the schedule never lets a disabled job run.
        body["paused"] = not target.enabled
    if body:
        await client.request(
            "PATCH", "/deployments/{id}", path_params={"id": str(existing.id)}, json=body
        )
    if not writes_schedule:
        return
    if ours is None:
        await client.request(
            "POST",
            "/deployments/{id}/schedules",
            path_params={"id": str(existing.id)},
            json=[_schedule_body(stored, target, slug=has_others)],
        )
        return
    needs_slug = has_others or ours.slug is not None
    new = (
        _schedule_body(stored, target, slug=needs_slug)
        if "schedule" in changed
        else {"active": True}
    )
    await client.request(
        "PATCH",
        "/deployments/{id}/schedules/{schedule_id}",
        path_params={"id": str(existing.id), "schedule_id": str(ours.id)},
        json=new | {"parameters": ours.parameters},  # if omitted, Prefect would clear them
    )


async def delete(client: PrefectClient, deployment_id: str) -> None:
    """Delete the deployment; do nothing if it does not exist."""
    from prefect.exceptions import ObjectNotFound

    try:
        await client.delete_deployment(UUID(deployment_id))
    except ObjectNotFound:
        return


async def start_run(
    client: PrefectClient, deployment_id: str, key: str, parameters: JsonObject, name: str
) -> str | None:
    """Request a run now, or return the run with the same ``key``; None without the deployment."""
    run = await create_run(client, deployment_id, key, parameters, name=name)
    return None if run is None else str(run.id)


async def create_run(
    client: PrefectClient,
    deployment_id: str,
    key: str,
    parameters: JsonObject,
    *,
    name: str,
    state: State[Any] | None = None,
    tags: Collection[str] = (),
) -> FlowRun | None:
    """Create a run, scheduled for now or in ``state``; return None if the deployment was deleted.

    It has the ``tags``, and those of the deployment. The same ``key`` returns the same run, in its
    current state. Raise `PrefectHTTPStatusError` if Prefect refuses the run for another reason.
    """
    from prefect.exceptions import PrefectHTTPStatusError

    try:
        return await client.create_flow_run_from_deployment(
            UUID(deployment_id),
            parameters=parameters,
            idempotency_key=key,
            state=state,
            name=name,
            tags=tags,
        )
    except PrefectHTTPStatusError as error:
        if error.response.status_code == HTTPStatus.NOT_FOUND:
            return None
        raise
