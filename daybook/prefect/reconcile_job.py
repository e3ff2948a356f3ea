"""Reconciliation of one job with Prefect.

::

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

from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from daybook.jobs import store
from daybook.jobs.store import StoredJob
from daybook.ledger.engine import Ledger
from daybook.ledger.tables import JobRow
from daybook.names import free_name
from daybook.prefect import client as prefect
from daybook.prefect import deployment, instances, links, parameter_schema, projection
from daybook.prefect.diff import compare, differing_fields
from daybook.prefect.import_edits import import_edits, without_defaults_of_deploy
from daybook.prefect.projection import Projection
from daybook.prefect.report import ReconcileReport

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient
    from prefect.client.schemas.responses import DeploymentResponse


async def reconcile_job(
    ledger: Ledger,
    client: PrefectClient,
    stored: StoredJob,
    found: DeploymentResponse | None,
    report: ReconcileReport,
    *,
    needed: bool = False,
    again: bool = True,
    is_new: bool = False,
) -> StoredJob:
    """Reconcile one job that is not archived; return it as it is now.

    ``found`` is the job's deployment as it is now in Prefect. Without ``found``, search for the
    deployment (by its name, unless the job ``is_new``) and create it if necessary. If the job is
    disabled because its deployment was deleted in Prefect, create none unless it is ``needed``. If
    the deployment is deleted before the write and ``again`` is True, compare the job a second time.

    ``is_new`` is for many jobs at once: no deployment has the job's name, and Prefect's scheduler
    may take up to a minute to queue the job's runs. Raise `PrefectHTTPStatusError` if Prefect
    refuses a write; imported edits persist. Raise `UnreadableJob` for a job that cannot be read.
    """
    from prefect.exceptions import PrefectHTTPStatusError

    stored.require_readable()
    if found is not None and projection.belongs_to_other_ledger(found.tags, ledger.id):
        return await _record_lost(ledger, stored, links.TAKEN_REASON, report)
    if found is None:
        result = await _find_deployment(
            ledger, client, stored, report, needed=needed, is_new=is_new
        )
        if isinstance(result, StoredJob):
            report.observed.add(stored.id)
            return result
        stored, found = result
    ours = projection.of_job(stored, ledger.id)
    observed = projection.of_deployment(found) if found else None
    # If the ledger has recorded that the job has no deployment, a user created this one: all
    # differences are edits.
    base = stored.row.synced if stored.row.synced != links.NO_DEPLOYMENT else ours.as_dict()
    difference = compare(ours, base, observed)
    if found is not None:
        report_unmanaged(stored, found, report)
        difference = without_defaults_of_deploy(difference, stored, found)
        if difference.pull or difference.conflicts:
            pulled = await import_edits(ledger, stored, found, difference, report)
            if pulled is None:  # meanwhile changed in the ledger: compare again
                return await reconcile_by_id(ledger, client, stored.id, report) or stored
            if difference.conflicts:
                report.conflict(stored.job.name, difference.conflicts)
            if pulled.row.updated_at != stored.row.updated_at:
                report.pulled.append(stored.job.name)
            # The deployment may have been edited again meanwhile: read it again before the write.
            found = await deployment.read(client, str(found.id))
            if found is None or projection.of_deployment(found) != observed:
                again_compared = reconcile_by_id(
                    ledger, client, stored.id, report, needed=needed, again=again
                )
                return await again_compared or pulled
            stored = pulled
    report.observed.add(stored.id)
    try:
        await _push(ledger, client, stored, found, report, is_new=is_new)
    except PrefectHTTPStatusError as error:
        is_gone = error.response.status_code == HTTPStatus.NOT_FOUND
        if not (is_gone and found is not None and again):
            raise
        found_again = reconcile_by_id(ledger, client, stored.id, report, needed=needed, again=False)
        return await found_again or stored
    return stored


async def _push(
    ledger: Ledger,
    client: PrefectClient,
    stored: StoredJob,
    existing: DeploymentResponse | None,
    report: ReconcileReport,
    *,
    is_new: bool,
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
    agreed = _agreement(expected, existing)
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
        and _is_recorded(stored, _agreement(expected, found), str(found.id))
    )


def _agreement(expected: Projection, existing: DeploymentResponse | None) -> dict[str, Any]:
    unmanaged = projection.describe_unmanaged(existing) if existing else []
    return expected.as_dict() | ({"foreign": unmanaged} if unmanaged else {})


def _is_recorded(stored: StoredJob, agreed: dict[str, Any], deployment_id: str) -> bool:
    row = stored.row
    same = row.deployment_id == deployment_id and row.synced == agreed
    return same and not row.sync_pending


async def _find_deployment(
    ledger: Ledger,
    client: PrefectClient,
    stored: StoredJob,
    report: ReconcileReport,
    *,
    needed: bool,
    is_new: bool,
) -> tuple[StoredJob, DeploymentResponse | None] | StoredJob:
    """Return the job and its deployment, or only the job if it should have no deployment.

    The deployment is None if it must be created. Find it by its id, or by its name if a crash has
    left the id unrecorded or a user recreated the deployment. Do not change a deployment with this
    name that does not belong to this ledger; give the job another slug instead.
    """
    row = stored.row
    if row.deployment_id or links.is_without_deployment(row):
        existing = await deployment.read(client, row.deployment_id) if row.deployment_id else None
        existing = existing or await _find_replacement(ledger, client, stored)
        if existing is not None:
            return stored, existing
        if not needed and not await _needs_deployment(ledger, client, stored, report):
            if row.deployment_id is None:
                return stored
            return await _record_lost(ledger, stored, links.DELETED_REASON, report)
    if is_new or await deployment.read_by_name(client, row.kind, row.slug) is None:
        return stored, None
    await delete_leftover_deployments(ledger, client, report)  # one of them may have the name
    base, tried = row.slug, set[str]()
    while True:
        existing = await deployment.read_by_name(client, row.kind, stored.row.slug)
        if existing is None or deployment.is_ours(existing, ledger.id):
            return stored, existing
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
    ledger: Ledger,
    client: PrefectClient,
    job_id: str,
    report: ReconcileReport,
    *,
    needed: bool = False,
    again: bool = True,
    is_new: bool = False,
) -> StoredJob | None:
    """Reconcile one job by its id; return it as it is now, or None if it does not exist.

    Do not change an archived job. The options and errors are as in `reconcile_job`.
    """
    async with ledger.read() as session:
        stored = await store.get(session, job_id)
    if stored is None or stored.row.archived_at is not None:
        return stored
    deployment_id = stored.row.deployment_id
    existing = await deployment.read(client, deployment_id) if deployment_id else None
    return await reconcile_job(
        ledger,
        client,
        stored,
        existing,
        report,
        needed=needed,
        again=again,
        is_new=is_new,
    )


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
