"""The MCP server over the pipes of this process, until its client closes them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from mcp.server.stdio import stdio_server

from daybook.mcp import server
from daybook.mcp.resources import AllResources, Clients
from daybook.owners import Actor

if TYPE_CHECKING:
    from daybook.ledger.engine import Ledger

MAX_SUBSCRIPTIONS = 20
"""Maximum number of subscriptions of the client."""


async def serve(actor: Actor) -> None:
    """Serve one client as ``actor``, until it closes the pipes.

    While the server runs, file descriptor 1 is stderr, so only the protocol uses stdout. When the
    client disconnects, the server cancels calls in progress. The stored data stays consistent.
    """
    clients = Clients(lambda _: actor, _ledger, MAX_SUBSCRIPTIONS, MAX_SUBSCRIPTIONS)
    resources = AllResources(clients)
    mcp_server = server.build_server(clients, resources, keeps=True)
    try:
        async with stdio_server() as (reads, writes):
            await mcp_server.run(reads, writes, mcp_server.create_initialization_options())
    finally:
        await resources.close()


@asynccontextmanager
async def _ledger() -> AsyncIterator[Ledger]:
    from daybook.ledger.engine import open_ledger

    async with open_ledger() as ledger:
        yield ledger
