"""Reconciliation of the ledger and Prefect on request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from pydantic import BaseModel

from daybook import prefect
from daybook.api import authorization, conflicts
from daybook.errors import InvalidInput
from daybook.json_text import JsonObject
from daybook.ledger.engine import open_ledger, reading

if TYPE_CHECKING:
    from daybook.prefect.report import ReconcileReport


class SyncReport(BaseModel, frozen=True):
    """Result of a reconciliation, by the names of the jobs. `ReconcileReport` describes the fields.

    ``conflicts`` has Prefect's values of the fields that were changed on both sides. ``refused``,
    ``foreign`` and ``failed`` map names to reasons. ``writes`` is the number of deployments that
    Daybook wrote or deleted; it is 0 if the ledger and Prefect did not differ.
    """

    created: list[str]
    updated: list[str]
    pulled: list[str]
    adopted: list[str]
    deleted: list[str]
    removed: list[str]
    remade: list[str]
    conflicts: dict[str, JsonObject]
    refused: dict[str, str]
    foreign: dict[str, str]
    failed: dict[str, str]
    unchanged: int
    writes: int

    @classmethod
    def of(cls, report: ReconcileReport, **more: object) -> Self:
        """Return the report; ``more`` are the fields that a subclass adds."""
        shared = {name: getattr(report, name) for name in SyncReport.model_fields}
        return cls.model_validate(shared | more)


class DecidedSyncReport(SyncReport, frozen=True):
    """Result of a sync that decided conflicts. ``decided`` are the names of the decided jobs.

    ``refused`` also has the jobs whose conflict could not be decided.
    """

    decided: list[str]


async def sync(prefer: str | None = None, ref: str | None = None) -> SyncReport:
    """Create the work pool if it is missing, and reconcile all jobs in both directions.

    Return a report. With ``prefer`` (`ledger` or `prefect`), also decide all remaining conflicts in
    favour of that side, and return a `DecidedSyncReport`. With ``ref``, decide only the conflict of
    this job. Raise `PrefectUnreachable`, `InvalidInput` for ``ref`` without ``prefer``, for an
    unknown ``prefer`` and for a pool of another type, and the errors of `conflicts.decide`.
    """
    if ref is not None and prefer is None:
        raise InvalidInput("JOB", "needs --prefer", "add --prefer ledger or --prefer prefect")
    side = conflicts.parse_side(prefer) if prefer is not None else None
    if ref is not None:  # before the sync, which may adopt a job of this name
        async with reading() as session:
            ref = (await authorization.find_job(session, ref)).id
    async with open_ledger() as ledger, prefect.client.answering() as client:
        await prefect.work_pool.ensure(client)
        report = await prefect.reconcile.reconcile_all(ledger, client)
        if side is None:
            return SyncReport.of(report)
        decided, refused = await conflicts.decide(ledger, side, ref)
        if side == "prefect":
            for job_id in decided:
                await prefect.reconcile.reconcile_changed_job(ledger, client, job_id, report)
    report.refused |= refused
    return DecidedSyncReport.of(report, decided=list(decided.values()))
