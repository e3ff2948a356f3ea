"""Deployments of our flows that somebody made in Prefect become jobs (requirement 53).

::

    has another ledger's tag            never (`docs/promise.md` 15)
    is of our flow, by its entrypoint   a job: `prefect deploy`, the API
    has no entrypoint, and our tag or   a job, and gets what carries it: the UI's Duplicate
    our pool
    schedule or parameters that no      stays Prefect's own, told once
    job can say
    the ledger has no job here, and     stays as it is: this is another Daybook's Prefect
    another ledger has

What it holds is the agreement from which the job begins, so that only our tag, the description's
first line and the parameters' defaults are written back. It is a job from the moment it is taken
over: what ran before is nobody's due time. A second ledger that takes it over at the same moment
loses it again when it sees the tag that was written last (`deployments.TAKEN`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from daybook import owners, settings
from daybook.errors import InvalidInput
from daybook.jobs import prompts, store
from daybook.jobs.actions import ORDERS, AgentPrompt, Heartbeat
from daybook.jobs.model import TAG_OF_OURS, Job, read_parameters
from daybook.ledger.engine import Ledger
from daybook.names import LONGEST, cut, default_name, free_name, validate_name
from daybook.prefect import client as prefect
from daybook.prefect import deployment, parameter_schema, projection
from daybook.prefect import links as records
from daybook.prefect.deployments import Listed
from daybook.prefect.fingerprints import AGAIN
from daybook.prefect.report import Report
from daybook.schedules.schedule import At
from daybook.validation import translated

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient
    from prefect.client.schemas.responses import DeploymentResponse


async def all_of(
    ledger: Ledger,
    client: PrefectClient,
    listed: Sequence[Listed],
    refused: dict[str, tuple[bytes, float]],
    report: Report,
) -> list[str]:
    """Take over those of ``listed``, no job's deployments, that can be jobs; returns the jobs' ids.

    ``refused`` are those that could not, as `Seen` keeps them; who is not among them is asked
    again and told. One that goes wrong does not hold up the others.
    """
    made = []
    for each in listed:
        mark, until = refused.get(each.id, (None, 0.0))
        if (mark == each.mark and time.monotonic() < until) or not _is_candidate(each, ledger.id):
            continue
        try:
            job_id = await _one(ledger, client, each, report)
        except InvalidInput as error:
            refused[each.id] = each.mark, math.inf
            report.keep_foreign(_shown(each), f"it cannot be a job: {error}")
        except Exception as error:
            if not prefect.is_of_one(error):
                raise
            refused[each.id] = each.mark, time.monotonic() + AGAIN
            report.keep_foreign(_shown(each), f"it cannot be a job: {prefect.trouble(error)}")
        else:
            made += [job_id] if job_id else []
    return made


def _shown(each: Listed) -> str:
    """Name the deployment: several flows may each have one of the same name."""
    kind = parameter_schema.kind_of(each.raw["entrypoint"]) if each.raw.get("entrypoint") else None
    return f"{kind}/{each.name}" if kind else f"{each.name} ({each.id[:8]})"


def _is_candidate(each: Listed, ledger_id: str) -> bool:
    if each.raw.get("entrypoint"):
        return parameter_schema.kind_of(each.raw["entrypoint"]) is not None
    ours = projection.ledger_tag(ledger_id) in each.ledgers()
    return ours or each.raw.get("work_pool_name") == parameter_schema.POOL


async def _one(ledger: Ledger, client: PrefectClient, each: Listed, report: Report) -> str | None:
    """The job's id; None where there is none to be made now. Raises `InvalidInput`."""
    found = await deployment.read(client, each.id)
    if found is None or projection.is_anothers(found.tags, ledger.id):
        return None
    kind = (await client.read_flow(found.flow_id)).name
    if found.entrypoint and parameter_schema.kind_of(found.entrypoint) != kind:
        raise InvalidInput("entrypoint", f"{found.entrypoint} is not of the flow {kind}")
    now = ledger.now()
    async with ledger.write() as session:
        job = _job(found, kind, await store.names(session, owners.PREFECT), now)
        stored = await records.adopted(
            session,
            job,
            found.name,
            now,
            deployment_id=each.id,
            projection=projection.of_deployment(found).as_dict(),
            disabled_reason=_why_off(job, now),
        )
    if stored is None:
        return None
    report.adopt(stored.job.name, f"{kind}/{found.name}")
    return stored.id


def _job(found: DeploymentResponse, kind: str, taken: Collection[str], now: datetime) -> Job:
    """The deployment as a job. Raises `InvalidInput` for what no job can say."""
    theirs = projection.of_deployment(found)
    schedule = projection.schedule_of(theirs.schedule, settings.load().timezone, now)
    action, policy, notify = read_parameters(kind, theirs.parameters)
    if isinstance(action, AgentPrompt):
        prompts.check(action.prompt)
    if isinstance(action, Heartbeat) and "file" not in theirs.parameters:
        # A heartbeat can do without any parameter: one that says nothing is a template.
        raise InvalidInput("file", "is missing", f"write which, such as {ORDERS}")
    has_passed = isinstance(schedule, At) and schedule.at <= now
    own = [tag for tag in theirs.tags if tag.strip() and not tag.startswith(TAG_OF_OURS)]
    with translated():
        return Job.model_validate(
            {
                "name": free_name(_name(found.name), taken),
                "kind": kind,
                "description": projection.own_description(theirs.description),
                "tags": own,
                "enabled": theirs.enabled and not has_passed,
                "action": action,
                "schedule": schedule,
                "policy": policy,
                "notify": notify,
            }
        )


def _name(given: str) -> str:
    try:
        return validate_name(cut(given.strip(), LONGEST))
    except InvalidInput:
        return default_name(given)


def _why_off(job: Job, now: datetime) -> str:
    if job.enabled:
        return ""
    if isinstance(job.schedule, At) and job.schedule.at <= now:
        return f"{store.FIRED} before it was taken over"
    return "switched off in Prefect"
