"""Bringing the ledger and Prefect into agreement, when asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from daybook.service import home

if TYPE_CHECKING:
    from daybook.sync.report import Report


async def sync() -> dict[str, Any]:
    """Compare all jobs both ways; what was done, by their names (`daybook.sync.report.Report`).

    `writes` is how many deployments were written; a second time it is 0.
    """
    from daybook.sync import client as prefect
    from daybook.sync import reconcile

    async with home.ledger() as ledger, prefect.connected() as client:
        await prefect.answers(client)
        report = await reconcile.everything(ledger, client)
    return plain(report)


def plain(report: Report) -> dict[str, Any]:
    """What a sync did, as a plain dictionary."""
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
