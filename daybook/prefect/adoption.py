"""Adoption: a user's deployment of a Daybook flow becomes a job.

::

    tag of another ledger               never (promise 15: each ledger touches its own and
                                        untagged deployments only)
    entrypoint of a Daybook flow        a job: created by `prefect deploy` or the API
    no entrypoint, and our tag or       a job, which gets the missing fields: created by Duplicate
    our pool                            in the UI
    schedule or parameters that no      stays Prefect's own, and is reported; tried again when it
    job can express                     changes, and every `RETRY_INTERVAL_SECONDS` after an
                                        unknown name or a refusal by Prefect
    the ledger has no job in this       stays as it is: this is another Daybook's Prefect
    Prefect, but another ledger has
    there is no work pool yet           stays as it is until there is one

At first, the job's last reconciled state is the deployment as Daybook found it. So Daybook writes
back only the fields that differ: our tag, the summary in the description, the parameters' defaults,
the zone of an interval and the like. Runs that are due before the adoption do not belong to the
job. If two ledgers adopt a deployment at the same moment, one overwrites the tag of the other. The
other ledger gives the deployment up when it reads the new tag (`links.TAKEN_REASON`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from daybook import owners, settings
from daybook.errors import InvalidInput, UnknownName
from daybook.jobs import prompts, store
from daybook.jobs.actions import AgentPrompt
from daybook.jobs.labels import RESERVED_TAG_PREFIX
from daybook.jobs.model import Job, read_parameters
from daybook.ledger.engine import Ledger
from daybook.names import MAX_NAME_LENGTH, default_name, free_name, validate_new_name
from daybook.prefect import client as prefect
from daybook.prefect import conversations, deployment, links, parameter_schema, projection
from daybook.prefect.deployments import ListedDeployment
from daybook.prefect.fingerprints import RETRY_INTERVAL_SECONDS
from daybook.prefect.report import ReconcileReport
from daybook.prefect.summary import without_summary
from daybook.processes import locations
from daybook.short_text import prefix
from daybook.validation import raising_invalid_input

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient
    from prefect.client.schemas.responses import DeploymentResponse


async def adopt_deployments(
    ledger: Ledger,
    client: PrefectClient,
    listed: Sequence[ListedDeployment],
    refused: dict[str, tuple[bytes, float]],
    report: ReconcileReport,
) -> list[str]:
    """Adopt the deployments in ``listed`` that can be jobs; return the ids of the new jobs.

    ``listed`` has deployments without a job. ``refused`` has the deployments that could not be
    adopted (`Fingerprints.refused`); skip them until they change or their retry is due. Report the
    failure of one deployment and continue with the others, but raise the errors of an unreachable
    Prefect or ledger.
    """
    made = []
    for each in listed:
        mark, until = refused.get(each.id, (None, 0.0))
        if (mark == each.mark and time.monotonic() < until) or not _is_candidate(each, ledger.id):
            continue
        try:
            job_id = await _adopt(ledger, client, each, report)
        except InvalidInput as error:
            # The deployment may name a job that is adopted later.
            until = time.monotonic() + RETRY_INTERVAL_SECONDS
            refused[each.id] = each.mark, until if isinstance(error, UnknownName) else math.inf
            report.add_unmanaged(_display_name(each), f"it cannot be a job: {error}")
        except Exception as error:
            if not prefect.is_job_error(error):
                raise
            refused[each.id] = each.mark, time.monotonic() + RETRY_INTERVAL_SECONDS
            report.add_unmanaged(
                _display_name(each), f"it cannot be a job: {prefect.describe_error(error)}"
            )
        else:
            made += [job_id] if job_id else []
    return made


def _display_name(each: ListedDeployment) -> str:
    """Return an unambiguous name; deployments of different flows may have the same name."""
    kind = parameter_schema.kind_of(each.raw["entrypoint"]) if each.raw.get("entrypoint") else None
    return f"{kind}/{each.name}" if kind else f"{each.name} ({each.id[:8]})"


def _is_candidate(each: ListedDeployment, ledger_id: str) -> bool:
    if each.name == conversations.NAME:
        return False
    if each.raw.get("entrypoint"):
        return parameter_schema.kind_of(each.raw["entrypoint"]) is not None
    has_our_tag = projection.ledger_tag(ledger_id) in each.ledgers()
    return has_our_tag or each.raw.get("work_pool_name") == parameter_schema.WORK_POOL


async def _adopt(
    ledger: Ledger, client: PrefectClient, each: ListedDeployment, report: ReconcileReport
) -> str | None:
    """Store the deployment as a job; return the job's id.

    Return None if the deployment was deleted, belongs to another ledger, or has a job by now. Raise
    `InvalidInput` if no job can express the deployment.
    """
    existing = await deployment.read(client, each.id)
    if existing is None or projection.belongs_to_other_ledger(existing.tags, ledger.id):
        return None
    kind = (await client.read_flow(existing.flow_id)).name
    if existing.entrypoint and parameter_schema.kind_of(existing.entrypoint) != kind:
        raise InvalidInput(
            "entrypoint",
            f"{existing.entrypoint} does not belong to the flow {kind}",
            "use the entry point of that flow",
        )
    now = ledger.now()
    async with ledger.write() as session:
        job = _job(existing, kind, await store.taken_names(session, owners.PREFECT), now)
        if job.enabled:
            disabled_reason = ""
        elif job.schedule.has_passed(now):
            disabled_reason = f"{store.FIRED_REASON} before its adoption"
        else:
            disabled_reason = links.SWITCHED_OFF_REASON
        stored = await links.add_adopted_job(
            session,
            job,
            existing.name,
            now,
            deployment_id=each.id,
            projection=projection.of_deployment(existing).as_dict(),
            disabled_reason=disabled_reason,
        )
    if stored is None:
        return None
    report.adopt(stored.job.name, f"{kind}/{existing.name}")
    return stored.id


def _job(
    existing: DeploymentResponse, kind: str, used_names: Collection[str], now: datetime
) -> Job:
    """Return the deployment as a job; raise `InvalidInput` if no job can express it."""
    observed = projection.of_deployment(existing)
    schedule = projection.to_schedule(observed.schedule, settings.load().timezone, now)
    action, policy, notify = read_parameters(kind, observed.parameters)
    locations.check_job_folder(policy.work_dir, must_exist=False)
    if isinstance(action, AgentPrompt):
        prompts.check(action.prompt)
    first, *_ = type(action).model_fields
    # Without the first parameter, all parameters have defaults, and the deployment is a template.
    if first not in observed.parameters:
        raise InvalidInput(first, "is missing", "write it")
    own_tags = [
        tag for tag in observed.tags if tag.strip() and not tag.startswith(RESERVED_TAG_PREFIX)
    ]
    try:
        name = validate_new_name(prefix(existing.name.strip(), MAX_NAME_LENGTH))
    except InvalidInput:
        name = default_name(existing.name)
    is_default = observed.description == parameter_schema.FLOW_DESCRIPTION
    with raising_invalid_input():
        return Job.model_validate(
            {
                "name": free_name(name, used_names),
                "kind": kind,
                "description": "" if is_default else without_summary(observed.description),
                "tags": own_tags,
                "enabled": observed.enabled and not schedule.has_passed(now),
                "action": action,
                "schedule": schedule,
                "policy": policy,
                "notify": notify,
            }
        )
