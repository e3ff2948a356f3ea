"""Reconciliation of the ledger and Prefect on request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from daybook.api import conflicts
from daybook.errors import InvalidInput
from daybook.ledger.engine import open_ledger

if TYPE_CHECKING:
    from daybook.prefect.report import ReconcileReport


async def sync(prefer: str | None = None, ref: str | None = None) -> dict[str, Any]:
    """Reconcile all jobs in both directions; return the changes by job name, as `report_view` does.

    `writes` is the number of deployments written; on a second call it is 0. With ``prefer``,
    `ledger` or `prefect`, resolve the remaining conflicts for that side, or only that of the job
    ``ref``: `decided` has their names. Raise `InvalidInput`.
    """
    from daybook.prefect import client as prefect
    from daybook.prefect import reconcile

    if ref is not None and prefer is None:
        raise InvalidInput("JOB", "needs --prefer", "add --prefer ledger or --prefer prefect")
    side = conflicts.parse_side(prefer) if prefer is not None else None
    async with open_ledger() as ledger, prefect.connected() as client:
        await prefect.check_connection(client)
        report = await reconcile.reconcile_all(ledger, client)
        if side is None:
            return report_view(report)
        decided, refused = await conflicts.decide(ledger, side, ref)
        if side == "prefect":
            for job_id in decided:
                await reconcile.reconcile_changed_job(ledger, client, job_id, report)
    names = list(decided.values())
    return report_view(report) | {"decided": names, "refused": report.refused | refused}


def report_view(report: ReconcileReport) -> dict[str, Any]:
    """Return a report as a plain dictionary."""
    return {
        "created": report.created,
        "updated": report.updated,
        "pulled": report.pulled,
        "adopted": report.adopted,
        "deleted": report.deleted,
        "removed": report.removed,
        "remade": report.remade,
        "conflicts": report.conflicts,
        "refused": report.refused,
        "foreign": report.foreign,
        "failed": report.failed,
        "unchanged": report.unchanged,
        "writes": report.writes,
    }
