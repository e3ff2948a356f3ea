"""Reconciliation of one job with Prefect, in at most `MAX_ROUNDS` rounds.

A round observes both sides, plans (`daybook.prefect.plan`), and applies the plan::

    its deployment is            then
    ───────────────────────────  ────────────────────────────────────────────────────────────────
    present                      compared (`daybook.prefect.diff`): edits in Prefect are imported,
                                 and other differences are written to Prefect
    another ledger's by its tag  the job is disabled
    deleted, but recreated by    adopted as the job's deployment
    hand under the same name
    deleted in this Prefect      the job is disabled; but if it was enabled in Daybook since, or if
                                 a run needs the deployment, the deployment is recreated
    missing in a new Prefect     recreated
    recorded as having none      created when the job is enabled, or when a run needs it
    not recorded                 found by its name, if a crash left it unrecorded; else created,
                                 with another slug if the name is taken

Before Daybook writes anything to Prefect, it records in the ledger the edits made in Prefect, and
the values that a conflict will overwrite.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING

from daybook.jobs import store
from daybook.jobs.store import StoredJob
from daybook.json_text import JsonObject
from daybook.ledger.engine import Ledger
from daybook.ledger.tables import JobRow
from daybook.names import free_name
from daybook.prefect import client as prefect
from daybook.prefect import deployment, instances, links, parameter_schema, projection
from daybook.prefect.diff import differing_fields
from daybook.prefect.import_edits import import_edits
from daybook.prefect.plan import Disable, Import, Sides, Write, make_plan
from daybook.prefect.projection import Projection
from daybook.prefect.report import ReconcileReport

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient
    from prefect.client.schemas.responses import DeploymentResponse


MAX_ROUNDS = 3
"""Maximum number of rounds of one reconciliation.

If other processes or users change the job in each round, it stays pending for the next pass.
"""


async def _needs_deployment(
    ledger: Ledger, client: PrefectClient, stored: StoredJob, report: ReconcileReport
) -> bool:
    """Return whether Daybook must recreate the job's missing deployment.

    It must if the deployment was not deleted in this Prefect, or if the job was enabled after the
    deletion. Add a job whose recorded deployment it must recreate to the report.
    """
    row = stored.row
    if row.deployment_id is None:  # recorded as having none, until the job is enabled
        return stored.job.enabled
    if row.synced is not None and not row.synced.get("enabled", True) and stored.job.enabled:
        report.add_remade(row.name)
        return True
    return await instances.is_same_instance(ledger, client, report) is not True


async def _needs_deployment_for_run(*_: object) -> bool:
    return True


_NeedsDeployment = Callable[[Ledger, "PrefectClient", StoredJob, ReconcileReport], Awaitable[bool]]


async def reconcile_job(
    ledger: Ledger,
    client: PrefectClient,
    stored: StoredJob,
    found: DeploymentResponse | None,
    report: ReconcileReport,
    *,
    needs_deployment: _NeedsDeployment = _needs_deployment,
) -> StoredJob:
    """Reconcile one job that is not archived; return it as it is now.

    ``found`` is the job's deployment as it is now in Prefect. Without ``found``, search for the
    deployment, and create it if necessary. ``needs_deployment`` decides this if the job has lost
    its deployment. Raise `PrefectHTTPStatusError` if Prefect refuses a write; imported edits
    persist.
    """
    from prefect.exceptions import PrefectHTTPStatusError

    imported: Projection | None = None
    for left in reversed(range(MAX_ROUNDS)):
        sides = Sides(stored, found)
        if found is None:
            sides = await _find_deployment(ledger, client, stored, report, needs_deployment)
        stored, found = sides.stored, sides.found
        match make_plan(sides, ledger.id, imported):
            case None:
                report.observed.add(stored.id)
                return stored
            case Disable(reason):
                return await _record_lost(ledger, stored, reason, report)
            case Import(edited, difference):
                if await import_edits(ledger, stored, edited, difference, report):
                    imported = projection.of_deployment(edited)
            case Write():
                report.observed.add(stored.id)
                if found is not None:
                    report_unmanaged(stored, found, report)
                try:
                    await _push(ledger, client, stored, found, report)
                    return stored
                except PrefectHTTPStatusError as error:
                    is_gone = error.response.status_code == HTTPStatus.NOT_FOUND
                    if not (is_gone and found is not None and left):
                        raise
        # Either side may have changed meanwhile.
        newest, found = await _observe(ledger, client, stored.id)
        if newest is None or newest.row.archived_at is not None:
            return newest or stored
        stored = newest
    return stored


reconcile_for_run = partial(reconcile_job, needs_deployment=_needs_deployment_for_run)
"""`reconcile_job` for a run: create the deployment even if it was deleted in Prefect."""


async def create_deployment(
    ledger: Ledger, client: PrefectClient, job_id: str, report: ReconcileReport
) -> None:
    """Create the deployment of a new job, one of many at once; no deployment has its name.

    Prefect's scheduler may take up to a minute to queue the job's runs. If the job is not new any
    more, reconcile it.
    """
    async with ledger.read() as session:
        stored = await store.get(session, job_id)
    if stored is None or stored.row.archived_at is not None:
        return
    if stored.row.deployment_id or links.is_without_deployment(stored.row):
        await reconcile_by_id(ledger, client, job_id, report)
        return
    report.observed.add(job_id)
    await _push(ledger, client, stored, None, report, is_new=True)


async def _observe(
    ledger: Ledger, client: PrefectClient, job_id: str
) -> tuple[StoredJob | None, DeploymentResponse | None]:
    """Return the job and its recorded deployment as they are now.

    An archived job's deployment is not read.
    """
    async with ledger.read() as session:
        stored = await store.get(session, job_id)
    if stored is None or stored.row.archived_at is not None or not stored.row.deployment_id:
        return stored, None
    return stored, await deployment.read(client, stored.row.deployment_id)


async def _push(
    ledger: Ledger,
    client: PrefectClient,
    stored: StoredJob,
    existing: DeploymentResponse | None,
    report: ReconcileReport,
    *,
    is_new: bool = False,
) -> None:
    """Send the differences, request scheduling if needed, and record the reconciled state."""
    row, expected = stored.row, projection.of_job(stored, ledger.id)
    changed = differing_fields(expected, projection.of_deployment(existing) if existing else None)
    writes = (
        existing is None or bool(changed) or deployment.execution_fields_differ(stored, existing)
    )
    if existing is None:
        # If a crash follows right after the creation, the next pass can import later edits.
        async with ledger.write() as session:
            await links.record_intention(session, row.id, expected.as_dict())
    if writes:
        deployment_id = await deployment.write(
            client, stored, expected, existing, changed, is_new=is_new
        )
        (report.updated if existing else report.created).append(stored.job.name)
    else:
        deployment_id = str(existing.id) if existing else ""
        report.unchanged += 1
        if row.sync_pending:
            # An imported edit deleted the queued runs, or a crash came between our last write and
            # this request.
            await deployment.request_scheduling(client, stored, expected, existing, deployment_id)
    agreed = projection.agreement(expected, existing)
    if writes or not _is_recorded(stored, agreed, deployment_id):
        async with ledger.write() as session:
            await links.record_agreement(
                session, row.id, deployment_id, agreed, row.updated_at, written=changed
            )


def is_in_agreement(ledger: Ledger, stored: StoredJob, found: DeploymentResponse) -> bool:
    """Return whether ``found`` matches the job, and the ledger has recorded this state."""
    expected, actual = projection.of_job(stored, ledger.id), projection.of_deployment(found)
    return (
        not differing_fields(expected, actual)
        and not deployment.execution_fields_differ(stored, found)
        and _is_recorded(stored, projection.agreement(expected, found), str(found.id))
    )


def _is_recorded(stored: StoredJob, agreed: JsonObject, deployment_id: str) -> bool:
    row = stored.row
    same = row.deployment_id == deployment_id and row.synced == agreed
    return same and not row.sync_pending


async def _find_deployment(
    ledger: Ledger,
    client: PrefectClient,
    stored: StoredJob,
    report: ReconcileReport,
    needs_deployment: _NeedsDeployment,
) -> Sides:
    """Return the job with its deployment, or whether the missing deployment is needed.

    Find it by its id, or by its name if a crash has left the id unrecorded or a user recreated the
    deployment. Do not change a deployment with this name that does not belong to this ledger; give
    the job another slug instead.
    """
    row = stored.row
    if row.deployment_id or links.is_without_deployment(row):
        existing = await deployment.read(client, row.deployment_id) if row.deployment_id else None
        existing = existing or await _find_replacement(ledger, client, stored)
        if existing is not None:
            return Sides(stored, existing)
        if not await needs_deployment(ledger, client, stored, report):
            return Sides(stored, None, is_needed=False)
    if await deployment.read_by_name(client, row.kind, row.slug) is None:
        return Sides(stored, None)
    await delete_leftover_deployments(ledger, client, report)  # one of them may have the name
    base, tried = row.slug, set[str]()
    while True:
        existing = await deployment.read_by_name(client, row.kind, stored.row.slug)
        if existing is None or deployment.is_ours(existing, ledger.id):
            return Sides(stored, existing)
        tried.add(stored.row.slug)
        async with ledger.write() as session:
            await links.change_slug(
                session, row.id, free_name(base, tried | await store.taken_slugs(session, row.kind))
            )
            newest = await store.get(session, row.id)
        stored = newest or stored


async def _find_replacement(
    ledger: Ledger, client: PrefectClient, stored: StoredJob
) -> DeploymentResponse | None:
    """Return the deployment that a user recreated under the job's slug and flow, or None."""
    row = stored.row
    existing = await deployment.read_by_name(client, row.kind, row.slug)
    if existing is None or projection.belongs_to_other_ledger(existing.tags, ledger.id):
        return None
    return existing if parameter_schema.kind_of(existing.entrypoint) == row.kind else None


async def _record_lost(
    ledger: Ledger, stored: StoredJob, reason: str, report: ReconcileReport
) -> StoredJob:
    row = stored.row
    async with ledger.write() as session:
        if await links.record_lost_deployment(
            session, row.id, str(row.deployment_id), ledger.now(), reason
        ):
            report.add_deleted(row.name, reason)
            report.observed.add(row.id)
        newest = await store.get(session, row.id)
    return newest or stored


def report_unmanaged(stored: StoredJob, found: DeploymentResponse, report: ReconcileReport) -> None:
    """Report the parts of the job's deployment that stay Prefect's own."""
    unmanaged = projection.describe_unmanaged(found)
    if unmanaged:
        report.add_unmanaged(stored.job.name, "; ".join(unmanaged))


async def reconcile_by_id(
    ledger: Ledger, client: PrefectClient, job_id: str, report: ReconcileReport
) -> StoredJob | None:
    """Reconcile a job unless it is archived; return it as it is now, or None if it does not exist.

    The errors are as in `reconcile_job`.
    """
    stored, found = await _observe(ledger, client, job_id)
    if stored is None or stored.row.archived_at is not None:
        return stored
    return await reconcile_job(ledger, client, stored, found, report)


async def delete_leftover_deployments(
    ledger: Ledger, client: PrefectClient, report: ReconcileReport
) -> None:
    """Delete the deployments of archived jobs; Daybook deletes no other deployments.

    If Prefect refuses to delete a deployment, report the refusal; the next call tries again.
    """
    async with ledger.read() as session:
        archived = await links.jobs_to_undeploy(session)
    for row in archived:
        try:
            deployment_id = row.deployment_id or await _find_unrecorded(ledger, client, row)
            if deployment_id:
                await deployment.delete(client, deployment_id)
        except Exception as error:
            if not prefect.is_job_error(error):
                raise
            report.fail(row.name, prefect.describe_error(error))
            continue
        async with ledger.write() as session:
            await links.record_agreement(session, row.id, None, None, row.updated_at)
        if deployment_id:
            report.removed.append(row.name)


async def _find_unrecorded(ledger: Ledger, client: PrefectClient, row: JobRow) -> str | None:
    """Return the id of an archived job's deployment that a crash left unrecorded, or None."""
    existing = await deployment.read_by_name(client, row.kind, row.slug)
    if existing is None or not deployment.is_ours(existing, ledger.id):
        return None
    async with ledger.write() as session:
        await links.record_deployment_id(session, row.kind, row.slug, str(existing.id))
        stored = await store.get(session, row.id)
        # Otherwise the deployment belongs to a live job with this name.
        return stored.row.deployment_id if stored is not None else None
