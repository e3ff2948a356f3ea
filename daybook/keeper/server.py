"""Record of this process's Prefect server, so that two servers on one ledger are noticed."""

from __future__ import annotations

from contextlib import suppress

from prefect.client.orchestration import PrefectClient

from daybook.errors import LedgerUnreachable
from daybook.ledger import prefects
from daybook.ledger.engine import Ledger
from daybook.sync import place

RECORD_EVERY = prefects.RECORD_EVERY.total_seconds()


async def record(ledger: Ledger, client: PrefectClient, holder: str) -> str:
    """Record the server; returns what is wrong if processes of this ledger use another one too."""
    pool_id = await place.pool_id(client)
    if pool_id is None:
        return ""  # no pool yet, so no run of ours
    return prefects.conflict(await prefects.record(ledger, pool_id, str(client.api_url), holder))


async def forget(ledger: Ledger, holder: str) -> None:
    """Remove the record of a process that ends; one that cannot be removed is soon out of date."""
    with suppress(LedgerUnreachable):
        await prefects.forget(ledger, holder)
