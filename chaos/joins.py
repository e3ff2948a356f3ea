"""Homes on further hosts that join the ledger, as `docs/operations/fleet.md` describes it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from chaos.hosts import Host, Network
from daybook.home import Home
from daybook.ledger.engine import Ledger
from daybook.operations import worker
from daybook.operations.server import absolute_python_path
from daybook.prefect import links, work_pool
from daybook.processes import children, image

if TYPE_CHECKING:
    from chaos.cluster import Cluster

MAX_WAIT_SECONDS = 120.0
"""Maximum time until the keeper has recorded the Prefect server of the ledger."""
_POLL_INTERVAL_SECONDS = 0.2


def environment(home: Home) -> dict[str, str]:
    """Return the variables for a process of a home that has joined: no setting of another home."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("DAYBOOK_", "PREFECT_"))
    }
    fixed = {"DAYBOOK_HOME": str(home.path), "PYTHONUNBUFFERED": "1", **absolute_python_path()}
    return inherited | fixed | {"PREFECT_HOME": str(home.prefect)}


async def create_work_pool() -> None:
    """Create the work pool, by which a ledger recognizes its Prefect server."""
    from prefect.client.orchestration import get_client

    async with get_client() as client:
        await work_pool.ensure(client)


async def join(
    cluster: Cluster, network: Network, homes: Mapping[str, Home], variables: Mapping[str, str]
) -> dict[str, Home]:
    """Create a home for each worker in ``homes`` that uses the ledger; return them by worker.

    ``variables`` are the settings of the inviting home.
    """
    await _wait_for_leader(cluster.ledger)
    invitation = cluster.home.path / "invitation.json"
    inviting = worker.environment(cluster.home, cluster.prefect) | dict(variables)
    await _run(cluster, network.server, inviting, "invite", str(invitation))
    joined = dict[str, Home]()
    for name in homes:
        host = network.host_of(name)
        joined[name] = Home(cluster.home.path.parent / f"home-of-{name}").make()
        variables = environment(joined[name]) | host.variables()
        ledger = cluster.ledger.replace("postgresql+asyncpg", "postgresql")
        words = ("join", ledger, "--key-file", str(invitation))
        await _run(cluster, host, variables, *words)
    return joined


async def _wait_for_leader(address: str) -> None:
    async with Ledger(address) as ledger, asyncio.timeout(MAX_WAIT_SECONDS):
        while True:
            async with ledger.read() as session:
                if await links.recorded_pool_id(session) is not None:
                    return
            await asyncio.sleep(_POLL_INTERVAL_SECONDS)


async def _run(cluster: Cluster, host: Host, variables: Mapping[str, str], *words: str) -> None:
    command = host.command([*image.PYTHON_MODULE, "daybook", *words])
    log, folder = cluster.home.logs / f"{words[0]}.log", cluster.home.path
    child = await children.start(words[0], command, environment=variables, log=log, folder=folder)
    if code := await child.wait():
        raise RuntimeError(f"daybook {words[0]} ended with {code}\n{child.tail()}")
