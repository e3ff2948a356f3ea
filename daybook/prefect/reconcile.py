"""Bringing all jobs into agreement with Prefect, and what a run needs of that for its own."""

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
from daybook.jobs.store import StoredJob
from daybook.ledger.engine import Ledger
from daybook.prefect import adoption, deployment, parameter_schema, prefect_instance, projection
from daybook.prefect import client as prefect
from daybook.prefect import deployments as listing
from daybook.prefect import links as records
from daybook.prefect.deployments import Listed, Listing
from daybook.prefect.fingerprints import Seen
from daybook.prefect.reconcile_job import agrees, bring, one, remove_left_over, tell_foreign
from daybook.prefect.report import Report

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

log = logging.getLogger(__name__)

__all__ = ["Reconciliation", "Report", "bring", "everything", "remove_left_over"]


async def everything(
    ledger: Ledger,
    client: PrefectClient,
    seen: Seen | None = None,
    most_seconds: float = math.inf,
) -> Report:
    """Bring all jobs into agreement, one after the other; a second time nothing is written.

    A job that Prefect does not take, or that cannot be compared, is told in the report, and the
    others go on; the error is raised only where Prefect or the ledger is away. What is as it was
    when ``seen`` saw it in agreement is not looked at again. After ``most_seconds`` no further job
    is begun: the report tells how many are left.
    """
    report, end = Report(), time.monotonic() + most_seconds
    await remove_left_over(ledger, client, report)
    listed = await listing.read(client, ledger.id)
    here = await prefect_instance.is_known(ledger, client, report, listed.found)
    work = _Pass(ledger, client, listed, Seen() if seen is None else seen, report)
    async with ledger.read() as session:
        versions = await records.versions(session)
        changed = {each.id for each in versions if not work.seen.knows(each, listed)}
        stored = await store.every(session, changed) if changed else []
    report.unchanged = len(versions) - len(changed)
    report.observed |= {each.id for each in versions} - changed
    await work.do(stored, end)
    others = listed.found.keys() - {each.deployment_id for each in versions}
    if others and here is not None and not listed.is_anothers:
        those = [listed.found[each] for each in others]
        adopted = await adoption.all_of(ledger, client, those, work.seen.refused, report)
        async with ledger.read() as session:
            stored = await store.every(session, adopted) if adopted else []
        await work.do(stored, math.inf)
    return report


async def again(ledger: Ledger, client: PrefectClient, job_id: str, report: Report) -> None:
    """Bring one job into agreement that was changed since ``report`` was made."""
    async with ledger.read() as session:
        stored = await store.every(session, [job_id])
    await _Pass(ledger, client, Listing(), Seen(), report).do(stored, math.inf)


@dataclass(frozen=True)
class _Pass:
    """One look at all jobs."""

    ledger: Ledger
    client: PrefectClient
    listed: Listing
    seen: Seen
    report: Report

    async def do(self, stored: Sequence[StoredJob], end: float) -> None:
        """Look at these, until the monotonic ``end``."""
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
            if not prefect.is_of_one(error):
                raise
            if self._is_told(stored, entry):
                return
            self.report.fail(stored.job.name, prefect.trouble(error))
            # What was taken over before the error is in the ledger.
            async with self.ledger.read() as session:
                newest = await store.get(session, stored.id) or stored
            self.seen.failed(newest, entry, observed=stored.id in self.report.observed)

    async def _compare(self, stored: StoredJob, entry: Listed | None) -> None:
        found = entry.read() if entry else None
        if found is not None and agrees(self.ledger, stored, found):
            tell_foreign(stored, found, self.report)
            self.report.unchanged += 1
            self.report.observed.add(stored.id)
            if self.seen.has(stored.id):
                # Somebody saved it as it is: that has deleted what was queued.
                wanted = projection.of_job(stored, self.ledger.id)
                await deployment.ask_to_schedule(self.client, stored, wanted, found, str(found.id))
            self.seen.agreed(stored, entry)
            return
        if self._is_told(stored, entry):
            return
        # What was listed may be old by now: look again before anything is written.
        after = await one(self.ledger, self.client, stored.id, self.report)
        if after is not None and records.is_absent(after.row):
            self.seen.agreed(after, None)

    def _is_told(self, stored: StoredJob, entry: Listed | None) -> bool:
        """Whether just this failed a while ago, and was told."""
        if not self.seen.is_hopeless(stored, entry):
            return False
        if self.seen.was_observed(stored.id):
            self.report.observed.add(stored.id)
        return True


class Reconciliation:
    """What a run needs of sync (`daybook.execution.claim.Reconciler`): one job, compared or pushed."""

    async def compare(self, job_id: str, deployment_id: str) -> frozenset[str]:
        """Take over what was edited in Prefect on one job.

        Returns the ids of its deployment's schedules that stay Prefect's own.
        """
        from prefect.exceptions import PrefectHTTPStatusError

        async with Ledger(settings.load().ledger_address) as ledger, prefect.connected() as client:
            try:
                await one(ledger, client, job_id, Report())
            except PrefectHTTPStatusError as error:
                # What was edited there is taken over; that ours is not taken there must not cost
                # a due time. The next sync tells.
                log.warning(
                    "not pushed: %s", prefect.refusal(error), extra={"action": "push_failed"}
                )
            found = await deployment.read(client, deployment_id)
            return projection.foreign_ids(found) if found else frozenset()

    async def recognise(self, deployment_id: str) -> None:
        """Write down whose a deployment of ours is: a crash had kept its id from the ledger."""
        async with Ledger(settings.load().ledger_address) as ledger, prefect.connected() as client:
            found = await deployment.read(client, deployment_id)
            if found is None or not deployment.is_ours(found, ledger.id):
                return
            kinds = {
                parameter_schema.entrypoint(kind): kind for kind in parameter_schema.PROTOTYPES
            }
            async with ledger.write() as session:
                kind = kinds[str(found.entrypoint)]
                await records.known_as(session, kind, found.name, str(found.id))

    async def push(self, job_id: str) -> None:
        """Bring to Prefect what changed in the ledger on one job; nothing when nothing did.

        Of one that is removed after its run, its deployment goes.
        """
        async with Ledger(settings.load().ledger_address) as ledger:
            async with ledger.read() as session:
                stored = await store.get(session, job_id)
            if stored is not None and stored.row.sync_pending:
                async with prefect.connected() as client:
                    if stored.row.archived_at is not None:
                        await remove_left_over(ledger, client, Report())
                    await one(ledger, client, job_id, Report())
