"""Detection of another Prefect: a missing deployment was deleted, or never existed here.

The work pool's id identifies the Prefect. It differs in a Prefect that is new or was emptied, and
if the pool was made again. Then missing deployments are made again, and none counts as deleted.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from daybook.ledger.engine import Ledger
from daybook.prefect import deployments, parameter_schema
from daybook.prefect import links as records
from daybook.prefect.report import ReconcileReport

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient


async def pool_id(client: PrefectClient) -> str | None:
    """Return the id of the work pool; None if there is none (yet)."""
    from prefect.exceptions import ObjectNotFound

    try:
        return str((await client.read_work_pool(parameter_schema.WORK_POOL)).id)
    except ObjectNotFound:
        return None


async def is_same_instance(
    ledger: Ledger,
    client: PrefectClient,
    report: ReconcileReport,
    there: Collection[str] | None = None,
) -> bool | None:
    """Return whether a deployment that is missing was deleted; if not, record the new Prefect.

    ``there`` are the ids of the deployments of a list that was just read. Returns None while there
    is no pool, because the Prefect cannot be identified then.
    """
    current = await pool_id(client)
    if current is None:
        return None
    async with ledger.read() as session:
        if await records.recorded_pool_id(session) == current:
            return True
    if there is None:
        there = (await deployments.read(client, ledger.id)).found
    async with ledger.write() as session:
        names = await records.record_instance(session, current, there)
    for name in names:
        report.is_remade(name)
    return False
