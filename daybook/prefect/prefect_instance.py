"""Which Prefect this is: a deployment that is not there was deleted, or never was.

The work pool's id stands for it. It is another one in a Prefect that is new or was emptied, and
where the pool was made again; then what is missing is made again, and nothing was deleted.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from daybook.ledger.engine import Ledger
from daybook.prefect import deployments, parameter_schema
from daybook.prefect import links as records
from daybook.prefect.report import Report

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient


async def pool_id(client: PrefectClient) -> str | None:
    """The id of the work pool; None when there is none (yet)."""
    from prefect.exceptions import ObjectNotFound

    try:
        return str((await client.read_work_pool(parameter_schema.POOL)).id)
    except ObjectNotFound:
        return None


async def is_known(
    ledger: Ledger, client: PrefectClient, report: Report, there: Collection[str] | None = None
) -> bool | None:
    """Whether what is missing here was deleted here; if not, the new place is written down.

    ``there`` are the ids of the deployments of a listing that was just read. None while there is no
    pool: nobody knows then what this Prefect is.
    """
    now_so = await pool_id(client)
    if now_so is None:
        return None
    async with ledger.read() as session:
        if await records.place(session) == now_so:
            return True
    if there is None:
        there = (await deployments.read(client, ledger.id)).found
    async with ledger.write() as session:
        names = await records.moved(session, now_so, there)
    for name in names:
        report.is_remade(name)
    return False
