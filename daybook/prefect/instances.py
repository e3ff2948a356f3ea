"""The Prefect servers to which processes of this ledger are connected; there should be only one.

Each worker and keeper records its server about once a minute. If two servers use one ledger, a
waiting run gets a Prefect run only in the leader's server, so the workers of the other server never
start the waiting run.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from sqlalchemy import delete
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook.ledger.engine import Ledger
from daybook.ledger.tables import Fact
from daybook.prefect import deployments, links, parameter_schema
from daybook.prefect.report import ReconcileReport

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

IN_USE_AGE = timedelta(minutes=3)
"""Time for which a server counts as in use after a process has recorded it."""
_RETENTION_AGE = timedelta(days=1)
_PREFIX = "prefect:"


@dataclass(frozen=True)
class PrefectServer:
    """A server, identified by its work pool's id, because one server may have several addresses.

    ``holder`` is the process that last recorded the server, at the time ``seen_at`` (UTC).
    """

    pool_id: str
    api_url: str
    holder: str
    seen_at: datetime

    @property
    def place(self) -> tuple[str, str]:
        """Return the address and the machine that recorded it: `localhost` differs by machine."""
        return self.api_url, self.holder.partition(":")[0]


async def record_server(ledger: Ledger, client: PrefectClient, holder: str) -> str:
    """Record the server of ``client``, if it has a work pool; return the `conflict` of all servers.

    Return "" without a pool or a conflict.
    """
    current = await pool_id(client)
    if current is None:
        return ""  # there is no pool yet, so no run of ours
    return conflict(await record(ledger, current, str(client.api_url), holder))


async def record(ledger: Ledger, pool_id: str, api_url: str, holder: str) -> list[PrefectServer]:
    """Record that ``holder`` is connected to this server; return all servers in use, sorted."""
    async with ledger.write() as session:
        server = PrefectServer(pool_id, without_user(api_url), holder, ledger.now())
        for each in await _all(session):
            # The same address with another id: its pool was deleted and recreated.
            if each.seen_at < server.seen_at - _RETENTION_AGE or each.place == server.place:
                await _delete(session, each)
        value = {"api_url": server.api_url, "holder": holder, "seen_at": server.seen_at.isoformat()}
        await session.merge(Fact(key=_PREFIX + pool_id, value=json.dumps(value)))
        await session.flush()
        return await in_use(session, server.seen_at)


def without_user(api_url: str) -> str:
    """Return an address without a user, a password and a slash at the end."""
    parts = urlsplit(api_url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])).rstrip("/")


async def forget(ledger: Ledger, holder: str) -> None:
    """Remove the servers of the ending process ``holder``; other users record them again."""
    async with ledger.write() as session:
        for each in await _all(session):
            if each.holder == holder:
                await _delete(session, each)


async def forget_all(session: AsyncSession) -> None:
    """Remove all servers, in a ledger that no process uses yet, such as a restored one."""
    await session.execute(delete(Fact).where(col(Fact.key).startswith(_PREFIX)))


async def in_use(session: AsyncSession, now: datetime) -> list[PrefectServer]:
    """Return the servers that a process recorded in the last `IN_USE_AGE`, sorted by address."""
    servers = [each for each in await _all(session) if each.seen_at >= now - IN_USE_AGE]
    return sorted(servers, key=lambda each: (each.api_url, each.pool_id))


def conflict(servers: list[PrefectServer]) -> str:
    """Return a description of the problem if there are several servers, or an empty string."""
    if len(servers) < 2:
        return ""
    each = " and ".join(f"{server.api_url} (process {server.holder})" for server in servers)
    return (
        f"{len(servers)} Prefect servers use this ledger: {each}; "
        "runs of one server wait for workers of the other"
    )


CONFLICT_HINT = (
    "stop the workers and keepers of all servers but one, or give each server its own ledger "
    "(DAYBOOK_HOME or DAYBOOK_LEDGER_URL)"
)
"""How to resolve a `conflict`."""


async def _delete(session: AsyncSession, server: PrefectServer) -> None:
    await session.execute(delete(Fact).where(col(Fact.key) == _PREFIX + server.pool_id))


async def _all(session: AsyncSession) -> list[PrefectServer]:
    facts = select(Fact).where(col(Fact.key).startswith(_PREFIX))
    servers = []
    for fact in (await session.execute(facts)).scalars():
        value = json.loads(fact.value)
        seen_at = datetime.fromisoformat(value["seen_at"])
        pool_id = fact.key.removeprefix(_PREFIX)
        servers.append(PrefectServer(pool_id, value["api_url"], value["holder"], seen_at))
    return servers


async def pool_id(client: PrefectClient) -> str | None:
    """Return the id of the work pool; None if the pool does not exist yet."""
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
    """Return whether this is the recorded Prefect; if it is, a missing deployment was deleted.

    If it is another Prefect, or none was recorded, record this Prefect. Mark as pending the jobs
    whose deployment it does not have, and report them. ``there`` has the ids of the deployments
    that were just listed; by default, this function reads them. Return None while there is no pool,
    because the Prefect cannot be identified then.
    """
    current = await pool_id(client)
    if current is None:
        return None
    async with ledger.read() as session:
        if await links.recorded_pool_id(session) == current:
            return True
    if there is None:
        there = (await deployments.read(client, ledger.id)).found
    async with ledger.write() as session:
        names = await links.record_instance(session, current, there)
    for name in names:
        report.add_remade(name)
    return False
