"""Reconciliation of Prefect's block documents with their copies in the ledger.

Agents, secrets, tool servers, channels and destinations are block documents of Prefect, and so are
the settings documents of features.
Prefect emits no event when a user edits a block document, so each cycle lists all of them
(`daybook.resources.mirror`).
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from daybook import feature
from daybook.agents import kinds
from daybook.delivery import destinations
from daybook.delivery.channels import apprise
from daybook.ledger.engine import Ledger
from daybook.resources import mirror, secrets
from daybook.resources.mirror import ComparisonCache, MirrorReport
from daybook.resources.store import BlockStore
from daybook.tools import server_blocks

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

log = logging.getLogger(__name__)

BLOCK_TYPES: tuple[BlockStore[Any], ...] = (
    *kinds.KINDS.values(),
    secrets.STORE,
    server_blocks.STORE,
    apprise.STORE,
    destinations.STORE,
    *feature.loaded("documents"),
)
"""The stores of all Daybook block types. The ledger has copies of their documents."""


async def reconcile_blocks(
    ledger: Ledger, client: PrefectClient, memory: ComparisonCache | None = None
) -> MirrorReport:
    """Run one cycle, log its changes and its failed restores, and return its report.

    Errors of an unreachable Prefect or ledger propagate.
    """
    memory = memory or ComparisonCache()
    report = await mirror.reconcile(ledger, client, BLOCK_TYPES, memory)
    if report.key_problem != memory.key_problem:
        memory.key_problem = report.key_problem
        if report.key_problem:
            log.warning(
                "Cannot copy agents and secrets to the ledger, or restore them from it: %s",
                report.key_problem,
                extra={"action": "ledger_key_missing"},
            )
    if report.registered:
        log.warning(
            "Registered Daybook's block types again, because Prefect had lost them",
            extra={"action": "blocks_registered"},
        )
    if report.restored:
        log.warning(
            "Restored in Prefect: %s", ", ".join(report.restored), extra={"action": "restored"}
        )
    if report.removed:
        log.info(
            "Removed from the ledger, because they were deleted in Prefect: %s",
            ", ".join(report.removed),
            extra={"action": "copies_removed"},
        )
    for label, why in report.failed.items():
        log.warning("Could not restore %s: %s", label, why, extra={"action": "restore_failed"})
    return report
