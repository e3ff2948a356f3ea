"""Record of this process's Prefect server, which makes two servers on one ledger detectable."""

from __future__ import annotations

from contextlib import suppress

from prefect.client.orchestration import PrefectClient

from daybook.errors import LedgerUnreachable
from daybook.ledger.engine import Ledger
from daybook.prefect import instances, prefect_instance

RECORD_INTERVAL_SECONDS = instances.RECORD_INTERVAL.total_seconds()


async def record(ledger: Ledger, client: PrefectClient, holder: str) -> str:
    """Record the server; return what is wrong if processes of this ledger use another one too."""
    pool_id = await prefect_instance.pool_id(client)
    if pool_id is None:
        return ""  # no pool yet, so no run of ours
    return instances.conflict(await instances.record(ledger, pool_id, str(client.api_url), holder))


async def forget(ledger: Ledger, holder: str) -> None:
    """Remove the record of a process that ends; if that fails, the record soon expires."""
    with suppress(LedgerUnreachable):
        await instances.forget(ledger, holder)
