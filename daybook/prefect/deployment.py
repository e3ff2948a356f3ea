"""Reading and writing one job's deployment in Prefect.

An existing deployment is patched, and only in what differs: that keeps the ids of its schedules
(a page of the UI that is open goes on working, and a due time that was queued is not queued twice),
the schedules that are not ours, and all that only Prefect knows, such as its concurrency limit.
Only our schedule's end needs the deployment to be posted again: deleting a schedule by itself would
delete late runs too.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from uuid import UUID

from slugify import slugify

from daybook.clock import SYSTEM
from daybook.jobs.lateness import ON_TIME
from daybook.jobs.store import StoredJob
from daybook.prefect import parameter_schema, projection
from daybook.prefect.projection import SLUG, Projection
from daybook.schedules.descriptions import in_words
from daybook.schedules.schedule import At, Cron, Every

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient
    from prefect.client.schemas.objects import DeploymentSchedule, FlowRun, State
    from prefect.client.schemas.responses import DeploymentResponse

_TICK = timedelta(microseconds=1)


async def read(client: PrefectClient, deployment_id: str) -> DeploymentResponse | None:
    """One deployment, or None when there is none (any more)."""
    from prefect.exceptions import ObjectNotFound

    try:
        return await client.read_deployment(UUID(deployment_id))
    except ObjectNotFound:
        return None


async def named(client: PrefectClient, kind: str, slug: str) -> DeploymentResponse | None:
    """The deployment of that name, whosever it is; None when there is none."""
    from prefect.exceptions import ObjectNotFound

    try:
        return await client.read_deployment_by_name(f"{kind}/{slug}")
    except ObjectNotFound:
        return None


def is_ours(found: DeploymentResponse, ledger_id: str) -> bool:
    """Whether this ledger made it. A duplicate made in Prefect's UI has our tag, but no flow."""
    flows = {parameter_schema.entrypoint(kind) for kind in parameter_schema.PROTOTYPES}
    return projection.ledger_tag(ledger_id) in found.tags and found.entrypoint in flows


def carrier_differs(kind: str, found: DeploymentResponse) -> bool:
    """Whether the deployment was made for another version's flow, or moved to another pool."""
    return bool(_carrier_changes(kind, found))


def _carrier_changes(kind: str, found: DeploymentResponse) -> dict[str, Any]:
    wanted = parameter_schema.carrier(kind)
    return {name: value for name, value in wanted.items() if getattr(found, name) != value}


async def write(
    client: PrefectClient,
    stored: StoredJob,
    wanted: Projection,
    found: DeploymentResponse | None,
    changed: Collection[str] = (),
) -> str:
    """Create the deployment, or make its ``changed`` fields what ``wanted`` says; returns its id.

    Each write deletes the future runs that Prefect had queued, so scheduling is asked for at once,
    from before the job's last change on: no due time falls between. What was queued stays as it is.
    """
    ours = projection.our_schedule(found) if found else None
    if found is None or ("schedule" in changed and ours is not None and not wanted.schedule):
        deployment_id = await _post(client, stored, wanted, found)
    else:
        deployment_id = str(found.id)
        await _patch(client, stored, wanted, found, changed)
    await ask_to_schedule(client, stored, wanted, found, deployment_id)
    return deployment_id


async def ask_to_schedule(
    client: PrefectClient,
    stored: StoredJob,
    wanted: Projection,
    found: DeploymentResponse | None,
    deployment_id: str,
) -> None:
    """Ask Prefect to queue the next runs at once; it adds those that are missing.

    Also those of schedules that stay Prefect's own: whatever was written has deleted theirs too.
    """
    if wanted.enabled and (wanted.schedule or (found is not None and found.schedules)):
        await client.request(
            "POST",
            "/deployments/{id}/schedule",
            path_params={"id": deployment_id},
            json={"start_time": _since(stored).isoformat()},
        )


def _since(stored: StoredJob) -> datetime:
    """From when on Prefect is to queue: from the last change, while what was due since is not late.

    Later than that, from now on, so that the hundred runs which Prefect queues lie ahead. A
    one-time job's run is queued however late it is: the claim judges that.
    """
    now, changed = SYSTEM.now(), stored.revision.effective_from
    one_time = isinstance(stored.job.schedule, At)
    # The tick: an interval is not due at its anchor, where a job of a whole second would begin.
    return min(now, changed + _TICK) if one_time or now - changed <= ON_TIME else now


def _own(stored: StoredJob, wanted: Projection, *, slug: bool) -> dict[str, Any]:
    """Our schedule as it is sent; ``slug`` says that it needs one in any case.

    The UI shows a slug in place of the schedule's words. So it gets one only where the UI has no
    good words (a time of its own, cron with seconds), where ours must be told from others, and
    where it has one, which Prefect cannot take away.
    """
    (schedule,) = projection.for_prefect(wanted.schedule)
    ours = stored.job.schedule
    has_seconds = isinstance(ours, Cron) and len(ours.expr.split()) == 6
    says_itself = isinstance(ours, Every) or (isinstance(ours, Cron) and not has_seconds)
    words = slugify(f"{SLUG}-{in_words(ours)}") if slug or not says_itself else None
    return {"schedule": schedule.model_dump(mode="json"), "active": True, "slug": words}


def _kept(schedule: DeploymentSchedule) -> dict[str, Any]:
    return schedule.model_dump(
        mode="json", include={"schedule", "active", "parameters", "slug"}, exclude_none=True
    )


async def _post(
    client: PrefectClient, stored: StoredJob, wanted: Projection, found: DeploymentResponse | None
) -> str:
    """Make it, or make it anew under its id, which replaces its schedules.

    What is not named in the request stays as it is. So this is not the client's own method, which
    names everything.
    """
    ours = projection.our_schedule(found) if found else None
    others = [_kept(each) for each in found.schedules if each is not ours] if found else []
    body: dict[str, Any] = {
        "name": stored.row.slug,
        "flow_id": str(await client.create_flow_from_name(stored.row.kind)),
        "schedules": [_own(stored, wanted, slug=bool(others))] if wanted.schedule else [],
        "paused": not wanted.enabled,
        "parameters": wanted.parameters,
        "tags": wanted.tags,
        "description": wanted.description,
        **parameter_schema.carrier(stored.row.kind),
    }
    if found is not None:
        body["schedules"] += others
        if found.work_pool_name == parameter_schema.POOL and found.work_queue_name:
            body["work_queue_name"] = found.work_queue_name
    answer = await client.request("POST", "/deployments/", json=body)
    return str(answer.json()["id"])


async def _patch(
    client: PrefectClient,
    stored: StoredJob,
    wanted: Projection,
    found: DeploymentResponse,
    changed: Collection[str],
) -> None:
    ours = projection.our_schedule(found)
    others = any(each is not ours for each in found.schedules)
    switched_on = wanted.enabled and ours is not None and not ours.active
    body = _carrier_changes(stored.row.kind, found)
    plain = ("parameters", "tags", "description")
    body |= {name: getattr(wanted, name) for name in plain if name in changed}
    schedules = "schedule" in changed or switched_on
    if schedules or "enabled" in changed:
        # Written first, so that switching the schedule on never lets a disabled job run.
        body["paused"] = not wanted.enabled
    if body:
        await client.request(
            "PATCH", "/deployments/{id}", path_params={"id": str(found.id)}, json=body
        )
    if not schedules:
        return
    if ours is None:
        await client.request(
            "POST",
            "/deployments/{id}/schedules",
            path_params={"id": str(found.id)},
            json=[_own(stored, wanted, slug=others)],
        )
        return
    slug = others or ours.slug is not None
    new = _own(stored, wanted, slug=slug) if "schedule" in changed else {"active": True}
    await client.request(
        "PATCH",
        "/deployments/{id}/schedules/{schedule_id}",
        path_params={"id": str(found.id), "schedule_id": str(ours.id)},
        json=new | {"parameters": ours.parameters},  # left out, they would be emptied
    )


async def delete(client: PrefectClient, deployment_id: str) -> None:
    """Delete it; nothing happens when it is gone already."""
    from prefect.exceptions import ObjectNotFound

    try:
        await client.delete_deployment(UUID(deployment_id))
    except ObjectNotFound:
        return


async def start_run(
    client: PrefectClient, deployment_id: str, key: str, parameters: dict[str, Any], name: str
) -> str | None:
    """Ask for a run now, of this ``name``; the same key again gives the same run.

    Returns its id, or None when the deployment is gone.
    """
    run = await make_run(client, deployment_id, key, parameters, name=name)
    return None if run is None else str(run.id)


async def make_run(
    client: PrefectClient,
    deployment_id: str,
    key: str,
    parameters: dict[str, Any],
    *,
    name: str,
    state: State[Any] | None = None,
) -> FlowRun | None:
    """Make a run, scheduled for now or as ``state`` says; None when the deployment is gone.

    The same key again gives the same run, in whatever state it is by now.
    """
    from prefect.exceptions import PrefectHTTPStatusError

    try:
        return await client.create_flow_run_from_deployment(
            UUID(deployment_id), parameters=parameters, idempotency_key=key, state=state, name=name
        )
    except PrefectHTTPStatusError as error:
        if error.response.status_code == HTTPStatus.NOT_FOUND:
            return None
        raise
