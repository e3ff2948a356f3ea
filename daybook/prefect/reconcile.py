"""Reconciliation of all jobs with Prefect, and the operations on one job that a run needs."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from daybook import settings
from daybook.jobs import store
from daybook.jobs.actions import ACTIONS
from daybook.jobs.store import StoredJob
from daybook.ledger.engine import Ledger, open_ledger
from daybook.prefect import (
    adoption,
    deployment,
    deployments,
    instances,
    links,
    parameter_schema,
    projection,
)
from daybook.prefect import client as prefect
from daybook.prefect.deployments import DeploymentList, ListedDeployment
from daybook.prefect.fingerprints import Fingerprints
from daybook.prefect.reconcile_job import (
    delete_leftover_deployments,
    is_in_agreement,
    reconcile_by_id,
    reconcile_for_run,
    reconcile_job,
    report_unmanaged,
)
from daybook.prefect.report import ReconcileReport

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

log = logging.getLogger(__name__)

__all__ = [
    "ReconcileReport",
    "compare",
    "delete_leftover_deployments",
    "push",
    "recognise",
    "reconcile_all",
    "reconcile_for_run",
    "reconcile_job",
]


async def reconcile_all(
    ledger: Ledger,
    client: PrefectClient,
    seen: Fingerprints | None = None,
    most_seconds: float = math.inf,
) -> ReconcileReport:
    """Reconcile all jobs, one after the other, and adopt deployments that users created.

    Without further changes, a second call writes nothing. Report a job that Prefect refuses, or
    that cannot be compared, and continue with the other jobs. Raise an error that concerns more
    than one job, such as an unreachable Prefect or ledger. Skip a job if ``seen`` shows that
    neither the ledger nor Prefect has changed since both were last equal. After ``most_seconds``,
    reconcile no further job, except newly adopted jobs; the report counts the jobs that are left.
    """
    report, end = ReconcileReport(), time.monotonic() + most_seconds
    await delete_leftover_deployments(ledger, client, report)
    listed = await deployments.read(client, ledger.id)
    is_same = await instances.is_same_instance(ledger, client, report, listed.found)
    work = _Reconciler(ledger, client, listed, Fingerprints() if seen is None else seen, report)
    async with ledger.read() as session:
        versions = await links.job_versions(session)
        changed = {each.id for each in versions if not work.seen.knows(each, listed)}
        stored = await store.all_jobs(session, changed) if changed else []
    report.unchanged = len(versions) - len(changed)
    report.observed |= {each.id for each in versions} - changed
    await work.do(stored, end)
    unlinked = listed.found.keys() - {each.deployment_id for each in versions}
    if unlinked and is_same is not None and not listed.belongs_to_other_ledger:
        candidates = [listed.found[each] for each in unlinked]
        adopted = await adoption.adopt_deployments(
            ledger, client, candidates, work.seen.refused, report
        )
        async with ledger.read() as session:
            stored = await store.all_jobs(session, adopted) if adopted else []
        await work.do(stored, math.inf)
    return report


async def reconcile_changed_job(
    ledger: Ledger, client: PrefectClient, job_id: str, report: ReconcileReport
) -> None:
    """Reconcile one job that was changed after ``report`` was made."""
    async with ledger.read() as session:
        stored = await store.all_jobs(session, [job_id])
    await _Reconciler(ledger, client, DeploymentList(), Fingerprints(), report).do(stored, math.inf)


@dataclass(frozen=True)
class _Reconciler:
    """Reconciliation of jobs with Prefect; it adds its results to ``report``."""

    ledger: Ledger
    client: PrefectClient
    listed: DeploymentList
    seen: Fingerprints
    report: ReconcileReport

    async def do(self, stored: Sequence[StoredJob], end: float) -> None:
        """Reconcile these jobs until the monotonic time ``end``; count the jobs that are left."""
        for each in stored:
            if time.monotonic() > end:
                self.report.left += 1
            else:
                await self._do(each)
                await asyncio.sleep(0)

    async def _do(self, stored: StoredJob) -> None:
        entry = self.listed.found.get(stored.row.deployment_id or "")
        try:
            await self._compare(stored, entry)
        except Exception as error:
            if not prefect.is_job_error(error):
                raise
            if self._has_failed_recently(stored, entry):
                return
            self.report.fail(stored.job.name, prefect.describe_error(error))
            # The edits that were imported before the error are in the ledger.
            async with self.ledger.read() as session:
                newest = await store.get(session, stored.id) or stored
            self.seen.failed(newest, entry, observed=stored.id in self.report.observed)

    async def _compare(self, stored: StoredJob, entry: ListedDeployment | None) -> None:
        existing = entry.read() if entry else None
        if existing is not None and is_in_agreement(self.ledger, stored, existing):
            report_unmanaged(stored, existing, self.report)
            self.report.unchanged += 1
            self.report.observed.add(stored.id)
            if self.seen.has(stored.id):
                # Saving the deployment without a change has deleted its queued runs.
                expected = projection.of_job(stored, self.ledger.id)
                await deployment.request_scheduling(
                    self.client, stored, expected, existing, str(existing.id)
                )
            self.seen.agreed(stored, entry)
            return
        if self._has_failed_recently(stored, entry):
            return
        # The list may already be outdated: read again before anything is written.
        reconciled = await reconcile_by_id(self.ledger, self.client, stored.id, self.report)
        if reconciled is not None and links.is_without_deployment(reconciled.row):
            self.seen.agreed(reconciled, None)

    def _has_failed_recently(self, stored: StoredJob, entry: ListedDeployment | None) -> bool:
        """Return whether reconciling the job failed recently and nothing has changed since.

        Then also add the job to `report.observed` if the ledger had all edits made in Prefect by
        then.
        """
        if not self.seen.failed_recently(stored, entry):
            return False
        if self.seen.was_observed(stored.id):
            self.report.observed.add(stored.id)
        return True


async def compare(job_id: str, deployment_id: str) -> frozenset[str]:
    """Reconcile one job, so that the ledger has the edits that were made in Prefect.

    Return the ids of the deployment's schedules that stay Prefect's own; the set is empty if there
    is no deployment. If Prefect refuses a write, log the error. Raise the errors of an
    unreachable Prefect or ledger.
    """
    from prefect.exceptions import PrefectHTTPStatusError

    async with Ledger(settings.load().ledger_address) as ledger, prefect.connected() as client:
        try:
            await reconcile_by_id(ledger, client, job_id, ReconcileReport())
        except PrefectHTTPStatusError as error:
            # The edits are imported. A refused write must not prevent a due time; the next
            # reconciliation reports the refusal.
            log.warning(
                "cannot update a deployment: %s",
                prefect.describe_refusal(error),
                extra={"action": "push_failed"},
            )
        existing = await deployment.read(client, deployment_id)
        return projection.unmanaged_schedule_ids(existing) if existing else frozenset()


async def recognise(deployment_id: str) -> None:
    """Record the id of a deployment of this ledger that a crash has left unrecorded.

    Do nothing if the deployment does not exist, or does not belong to this ledger.
    """
    async with Ledger(settings.load().ledger_address) as ledger, prefect.connected() as client:
        existing = await deployment.read(client, deployment_id)
        if existing is None or not deployment.is_ours(existing, ledger.id):
            return
        kinds = {parameter_schema.entrypoint(kind): kind for kind in ACTIONS}
        async with ledger.write() as session:
            kind = kinds[str(existing.entrypoint)]
            await links.record_deployment_id(session, kind, existing.name, str(existing.id))


async def push(job_id: str) -> None:
    """Send one job's changes in the ledger to Prefect; do nothing if there are no changes.

    If the job has been removed, delete its deployment and the deployments of other archived jobs.
    Raise `PrefectHTTPStatusError` if Prefect refuses a write, and the errors of an unreachable
    Prefect or ledger.
    """
    async with open_ledger() as ledger:
        async with ledger.read() as session:
            is_pending, is_removed = await links.pending(session, job_id)
        if is_pending:
            async with prefect.connected() as client:
                if is_removed:
                    await delete_leftover_deployments(ledger, client, ReconcileReport())
                await reconcile_by_id(ledger, client, job_id, ReconcileReport())
