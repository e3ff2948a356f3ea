"""Bringing one job into agreement with Prefect.

::

    its deployment is            then
    ───────────────────────────  ────────────────────────────────────────────────────────────────
    there                        compared (`daybook.prefect.diff`): taken over, or written
    another ledger's by its tag  the job is off
    gone, and made again by      taken over as the job's
    hand, under the same name
    gone, from this Prefect      the job is off, unless it was switched on here since
    gone, in another Prefect     made
    missing by agreement         made once the job is switched on, or needs it for a run

What is taken over, and what is about to be lost, is in the ledger before anything is written.
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
from daybook.prefect import deployment, parameter_schema, prefect_instance, projection
from daybook.prefect import links as records
from daybook.prefect.diff import differing, plan
from daybook.prefect.import_edits import pull
from daybook.prefect.projection import Projection
from daybook.prefect.report import Report

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient
    from prefect.client.schemas.responses import DeploymentResponse


async def bring(
    ledger: Ledger,
    client: PrefectClient,
    stored: StoredJob,
    found: DeploymentResponse | None,
    report: Report,
    *,
    needed: bool = False,
    again: bool = True,
) -> StoredJob:
    """Bring one job into agreement; returns it as it is now.

    ``found`` is its deployment as Prefect holds it now; without one it is looked for, and made. It
    is not made for a job that is off because it was deleted in Prefect, unless it is ``needed``.
    What another process has made anew since it was found is compared ``again``, once.
    """
    from prefect.exceptions import PrefectHTTPStatusError

    if found is not None and projection.is_anothers(found.tags, ledger.id):
        return await _lost(ledger, stored, records.TAKEN, report)
    if found is None:
        looked = await _look(ledger, client, stored, report, needed=needed)
        if isinstance(looked, StoredJob):
            report.observed.add(stored.id)
            return looked
        stored, found = looked
    wanted = projection.of_job(stored, ledger.id)
    theirs = projection.of_deployment(found) if found else None
    # Made in Prefect again for a job that had none by agreement: all of it is an edit.
    base = stored.row.synced if stored.row.synced != records.ABSENT else wanted.as_dict()
    todo = plan(wanted, base, theirs)
    if found is not None:
        tell_foreign(stored, found, report)
        if todo.pull or todo.conflicts:
            pulled = await pull(ledger, stored, found, todo, report)
            if pulled is None:  # changed here meanwhile: compare again
                return await one(ledger, client, stored.id, report) or stored
            if todo.conflicts:
                report.conflict(stored.job.name, todo.conflicts)
            if pulled.row.updated_at != stored.row.updated_at:
                report.pulled.append(stored.job.name)
            stored = pulled
    report.observed.add(stored.id)
    try:
        await _push(ledger, client, stored, found, report, ask=bool(todo.pull))
    except PrefectHTTPStatusError as error:
        is_gone = error.response.status_code == HTTPStatus.NOT_FOUND
        if not (is_gone and found is not None and again):
            raise
        found_again = one(ledger, client, stored.id, report, needed=needed, again=False)
        return await found_again or stored
    return stored


async def _push(
    ledger: Ledger,
    client: PrefectClient,
    stored: StoredJob,
    found: DeploymentResponse | None,
    report: Report,
    *,
    ask: bool,
) -> None:
    """Send what differs, have the next runs queued at once, and write down what both sides hold."""
    row, wanted = stored.row, projection.of_job(stored, ledger.id)
    changed = differing(wanted, projection.of_deployment(found) if found else None)
    sends = found is None or bool(changed) or deployment.carrier_differs(row.kind, found)
    if found is None:
        # Who dies after it is made there knows what it was, and takes over what was edited since.
        async with ledger.write() as session:
            await records.intended(session, row.id, wanted.as_dict())
    if sends:
        deployment_id = await deployment.write(client, stored, wanted, found, changed)
        (report.updated if found else report.created).append(stored.job.name)
    else:
        deployment_id = str(found.id) if found else ""
        report.unchanged += 1
        if ask or row.sync_pending:
            # An edit has deleted what was queued; or our write was cut off before it asked.
            await deployment.ask_to_schedule(client, stored, wanted, found, deployment_id)
    agreed = _agreement(wanted, found)
    if sends or not _written_down(stored, agreed, deployment_id):
        async with ledger.write() as session:
            await records.agreed(session, row.id, deployment_id, agreed, row.updated_at)


def agrees(ledger: Ledger, stored: StoredJob, found: DeploymentResponse) -> bool:
    """Whether nothing is to be done for the job, and all is written down."""
    wanted, theirs = projection.of_job(stored, ledger.id), projection.of_deployment(found)
    return (
        not differing(wanted, theirs)
        and not deployment.carrier_differs(stored.row.kind, found)
        and _written_down(stored, _agreement(wanted, found), str(found.id))
    )


def _agreement(wanted: Projection, found: DeploymentResponse | None) -> dict[str, Any]:
    told = projection.foreign(found) if found else []
    return wanted.as_dict() | ({"foreign": told} if told else {})


def _written_down(stored: StoredJob, agreed: dict[str, Any], deployment_id: str) -> bool:
    row = stored.row
    known = row.deployment_id == deployment_id and row.synced == agreed
    return known and not row.sync_pending


async def _look(
    ledger: Ledger, client: PrefectClient, stored: StoredJob, report: Report, *, needed: bool
) -> tuple[StoredJob, DeploymentResponse | None] | StoredJob:
    """The job's deployment, or None where it is to be made; or the job, when it is to have none.

    By its id; or by its name, when a crash kept the id from being written, or somebody made it
    again. A deployment of somebody else under that name is not touched: the job gets another slug.
    """
    row = stored.row
    if row.deployment_id or records.is_absent(row):
        found = await deployment.read(client, row.deployment_id) if row.deployment_id else None
        found = found or await _made_again(ledger, client, stored)
        if found is not None:
            return stored, found
        if not needed and not await _is_to_be_made(ledger, client, stored, report):
            if row.deployment_id is None:
                return stored
            return await _lost(ledger, stored, records.DELETED, report)
    await remove_left_over(ledger, client, report)  # one of them may have had this name
    base, tried = row.slug, set[str]()
    while True:
        found = await deployment.named(client, row.kind, stored.row.slug)
        if found is None or deployment.is_ours(found, ledger.id):
            return stored, found
        tried.add(stored.row.slug)
        async with ledger.write() as session:
            await records.renamed(
                session, row.id, free_name(base, tried | await store.slugs(session, row.kind))
            )
            newest = await store.get(session, row.id)
        stored = newest or stored


async def _made_again(
    ledger: Ledger, client: PrefectClient, stored: StoredJob
) -> DeploymentResponse | None:
    """A deployment of our flow under the job's name, which somebody made after the job's own."""
    row = stored.row
    found = await deployment.named(client, row.kind, row.slug)
    if found is None or projection.is_anothers(found.tags, ledger.id):
        return None
    return found if parameter_schema.kind_of(found.entrypoint) == row.kind else None


async def _is_to_be_made(
    ledger: Ledger, client: PrefectClient, stored: StoredJob, report: Report
) -> bool:
    """Whether a deployment that is missing is to be made again: it was not deleted in Prefect, or
    the job was switched on since.
    """
    row = stored.row
    if row.deployment_id is None:  # by agreement, until it is switched on
        return stored.job.enabled
    if row.synced is not None and not row.synced.get("enabled", True) and stored.job.enabled:
        report.is_remade(row.name)
        return True
    return await prefect_instance.is_known(ledger, client, report) is not True


async def _lost(ledger: Ledger, stored: StoredJob, why: str, report: Report) -> StoredJob:
    row = stored.row
    async with ledger.write() as session:
        if await records.lost(session, row.id, str(row.deployment_id), ledger.now(), why):
            report.was_deleted(row.name, why)
            report.observed.add(row.id)
        newest = await store.get(session, row.id)
    return newest or stored


def tell_foreign(stored: StoredJob, found: DeploymentResponse, report: Report) -> None:
    """Tell what Prefect holds of the job and keeps for itself."""
    told = projection.foreign(found)
    if told:
        report.keep_foreign(stored.job.name, "; ".join(told))


async def one(
    ledger: Ledger,
    client: PrefectClient,
    job_id: str,
    report: Report,
    *,
    needed: bool = False,
    again: bool = True,
) -> StoredJob | None:
    """One job as it is now on both sides; nothing happens to one that is archived."""
    async with ledger.read() as session:
        stored = await store.get(session, job_id)
    if stored is None or stored.row.archived_at is not None:
        return stored
    known = stored.row.deployment_id
    found = await deployment.read(client, known) if known else None
    return await bring(ledger, client, stored, found, report, needed=needed, again=again)


async def remove_left_over(ledger: Ledger, client: PrefectClient, report: Report) -> None:
    """Delete the deployments of archived jobs; none else is ever deleted.

    One that Prefect does not delete is told, and left to the next time.
    """
    async with ledger.read() as session:
        gone = await records.left_over(session)
    for row in gone:
        try:
            deployment_id = row.deployment_id or await _unwritten(ledger, client, row)
            if deployment_id:
                await deployment.delete(client, deployment_id)
        except Exception as error:
            if not prefect.is_of_one(error):
                raise
            report.fail(row.name, prefect.trouble(error))
            continue
        async with ledger.write() as session:
            await records.agreed(session, row.id, None, None, row.updated_at)
        if deployment_id:
            report.removed.append(row.name)


async def _unwritten(ledger: Ledger, client: PrefectClient, row: JobRow) -> str | None:
    """The id of an archived job's deployment that a crash kept from being written; None: none."""
    found = await deployment.named(client, row.kind, row.slug)
    if found is None or not deployment.is_ours(found, ledger.id):
        return None
    async with ledger.write() as session:
        await records.known_as(session, row.kind, row.slug, str(found.id))
        known = await store.get(session, row.id)
        # A live job of that name has it otherwise.
        return known.row.deployment_id if known is not None else None
