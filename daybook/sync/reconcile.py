"""Bringing one job, or all, into agreement with Prefect."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from daybook import settings
from daybook.errors import Refused
from daybook.ledger import deployments as records
from daybook.ledger import jobs
from daybook.ledger.engine import Ledger
from daybook.ledger.jobs import StoredJob
from daybook.spec.names import free_name
from daybook.sync import client as prefect
from daybook.sync import deployments, form, projection
from daybook.sync.plan import plan
from daybook.sync.projection import Projection
from daybook.sync.pull import pull
from daybook.sync.report import Report

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient
    from prefect.client.schemas.responses import DeploymentResponse

log = logging.getLogger(__name__)

__all__ = ["Reconciliation", "Report", "bring", "everything", "remove_left_over"]


async def everything(ledger: Ledger, client: PrefectClient) -> Report:
    """Bring all jobs into agreement, one after the other; a second time nothing is written.

    A job that Prefect does not take is told in the report, and the others go on.
    """
    from prefect.exceptions import PrefectHTTPStatusError

    report = Report()
    await remove_left_over(ledger, client, report)
    listed = await deployments.read_all(client, ledger.id)
    async with ledger.read() as session:
        stored = await jobs.every(session)
    for each in stored:
        found = listed.get(each.row.deployment_id or "")
        if found is not None and _agrees(ledger, each, found):
            _tell_foreign(each, found, report)
            report.unchanged += 1
            continue
        try:
            # What was listed may be old by now: look again before anything is written.
            await _one(ledger, client, each.id, report)
        except (PrefectHTTPStatusError, Refused) as error:
            if isinstance(error, PrefectHTTPStatusError) and error.response.status_code >= 500:
                raise
            report.fail(each.job.name, str(error))
    return report


async def remove_left_over(ledger: Ledger, client: PrefectClient, report: Report) -> None:
    """Delete the deployments of archived jobs; none else is ever deleted."""
    async with ledger.read() as session:
        gone = await records.left_over(session)
    for row in gone:
        await deployments.delete(client, str(row.deployment_id))
        async with ledger.write() as session:
            await records.agreed(session, row.id, None, None, row.updated_at)
        report.removed.append(row.name)


async def bring(
    ledger: Ledger,
    client: PrefectClient,
    stored: StoredJob,
    found: DeploymentResponse | None,
    report: Report,
) -> StoredJob:
    """Bring one job into agreement; returns it as it is now.

    ``found`` is its deployment as Prefect holds it now; without one it is looked for, and made.
    """
    name = stored.job.name
    if found is None:
        stored, found = await _look(ledger, client, stored, report)
    wanted = projection.of_job(stored, ledger.id)
    theirs = projection.of_deployment(found) if found else None
    todo = plan(wanted, stored.row.synced, theirs)
    if found is not None:
        _tell_foreign(stored, found, report)
    if todo.conflicts:
        report.conflict(name, todo.conflicts)
    if todo.pull and found is not None:
        pulled = await pull(ledger, stored, found, todo.pull, report)
        if pulled is None:  # changed here meanwhile: compare again
            return await _one(ledger, client, stored.id, report) or stored
        if pulled.row.updated_at != stored.row.updated_at:
            report.pulled.append(name)
        stored = pulled
        wanted = projection.of_job(stored, ledger.id)
    changed = _differing(wanted, theirs) - set(todo.leave)
    sends = found is None or bool(changed) or deployments.carrier_differs(stored.row.kind, found)
    if sends:
        deployment_id = await deployments.write(client, stored, wanted, found, changed)
        (report.updated if found else report.created).append(name)
    else:
        deployment_id = str(found.id) if found else ""
        report.unchanged += 1
        if stored.row.sync_pending:
            # The write may have been cut off before scheduling was asked for.
            await deployments.ask_to_schedule(client, stored, wanted, deployment_id)
    row = stored.row
    if sends or not _written_down(stored, wanted, deployment_id):
        async with ledger.write() as session:
            await records.agreed(session, row.id, deployment_id, wanted.as_dict(), row.updated_at)
    return stored


def _agrees(ledger: Ledger, stored: StoredJob, found: DeploymentResponse) -> bool:
    wanted, theirs = projection.of_job(stored, ledger.id), projection.of_deployment(found)
    todo = plan(wanted, stored.row.synced, theirs)
    return (
        _differing(wanted, theirs) <= set(todo.leave)
        and not deployments.carrier_differs(stored.row.kind, found)
        and _written_down(stored, wanted, str(found.id))
    )


def _differing(wanted: Projection, theirs: Projection | None) -> set[str]:
    held = theirs.as_dict() if theirs else {}
    return {name for name, value in wanted.as_dict().items() if held.get(name) != value}


def _written_down(stored: StoredJob, wanted: Projection, deployment_id: str) -> bool:
    row = stored.row
    known = row.deployment_id == deployment_id and row.synced == wanted.as_dict()
    return known and not row.sync_pending


async def _look(
    ledger: Ledger, client: PrefectClient, stored: StoredJob, report: Report
) -> tuple[StoredJob, DeploymentResponse | None]:
    """The job's deployment by its id, or by its name when a crash kept the id from being written.

    A deployment of somebody else under that name is not touched: the job gets another slug.
    """
    row = stored.row
    if row.deployment_id:
        found = await deployments.read(client, row.deployment_id)
        if found is not None:
            return stored, found
        report.was_deleted(row.name)
    await remove_left_over(ledger, client, report)  # one of them may have had this name
    base, tried = row.slug, set[str]()
    while True:
        found = await deployments.named(client, row.kind, stored.row.slug)
        if found is None or deployments.is_ours(found, ledger.id):
            return stored, found
        tried.add(stored.row.slug)
        async with ledger.write() as session:
            await records.renamed(
                session, row.id, free_name(base, tried | await jobs.slugs(session, row.kind))
            )
            newest = await jobs.get(session, row.id)
        stored = newest or stored


def _tell_foreign(stored: StoredJob, found: DeploymentResponse, report: Report) -> None:
    told = projection.foreign(found)
    if told:
        report.keep_foreign(stored.job.name, "; ".join(told))


class Reconciliation:
    """What a run needs of sync (`daybook.runs.gate.Reconciler`): one job, compared or pushed."""

    async def compare(self, job_id: str, deployment_id: str) -> frozenset[str]:
        """Take over what was edited in Prefect on one job.

        Returns the ids of its deployment's schedules that stay Prefect's own.
        """
        from prefect.exceptions import PrefectHTTPStatusError

        async with Ledger(settings.load().ledger_address) as ledger, prefect.connected() as client:
            try:
                await _one(ledger, client, job_id, Report())
            except PrefectHTTPStatusError as error:
                # What was edited there is taken over; that ours is not taken there must not cost
                # a due time. The next sync tells.
                log.warning("not pushed: %s", error, extra={"action": "push_failed"})
            found = await deployments.read(client, deployment_id)
            return projection.foreign_ids(found) if found else frozenset()

    async def recognise(self, deployment_id: str) -> None:
        """Write down whose a deployment of ours is: a crash had kept its id from the ledger."""
        async with Ledger(settings.load().ledger_address) as ledger, prefect.connected() as client:
            found = await deployments.read(client, deployment_id)
            if found is None or not deployments.is_ours(found, ledger.id):
                return
            kinds = {form.entrypoint(kind): kind for kind in form.PROTOTYPES}
            async with ledger.write() as session:
                kind = kinds[str(found.entrypoint)]
                await records.known_as(session, kind, found.name, str(found.id))

    async def push(self, job_id: str) -> None:
        """Bring to Prefect what changed in the ledger on one job; nothing when nothing did.

        Of one that is removed after its run, its deployment goes.
        """
        async with Ledger(settings.load().ledger_address) as ledger:
            async with ledger.read() as session:
                stored = await jobs.get(session, job_id)
            if stored is not None and stored.row.sync_pending:
                async with prefect.connected() as client:
                    if stored.row.archived_at is not None:
                        await remove_left_over(ledger, client, Report())
                    await _one(ledger, client, job_id, Report())


async def _one(
    ledger: Ledger, client: PrefectClient, job_id: str, report: Report
) -> StoredJob | None:
    """One job as it is now on both sides; nothing happens to one that is archived."""
    async with ledger.read() as session:
        stored = await jobs.get(session, job_id)
    if stored is None or stored.row.archived_at is not None:
        return stored
    known = stored.row.deployment_id
    found = await deployments.read(client, known) if known else None
    return await bring(ledger, client, stored, found, report)
