"""The server over the pipes of this process, until its client closes them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from mcp.server.stdio import stdio_server

from daybook.mcp import server
from daybook.mcp.resources import Sessions
from daybook.mcp.wakes import Wakes
from daybook.owners import Actor

if TYPE_CHECKING:
    from daybook.ledger.engine import Ledger

MOST = 20
"""So many subscriptions one client may have."""


async def serve(actor: Actor) -> None:
    """Serve one client as ``actor``. Meanwhile file 1 is stderr, and only the protocol's is stdout.

    What is at work when the client goes is cancelled; what is stored stays whole.
    """
    sessions = Sessions(lambda _: actor, Wakes(_ledger, MOST, MOST))
    ours = server.make(lambda _: actor, sessions, keeps=True)
    try:
        async with stdio_server() as (reads, writes):
            await ours.run(reads, writes, ours.create_initialization_options())
    finally:
        await sessions.close()


@asynccontextmanager
async def _ledger() -> AsyncIterator[Ledger]:
    from daybook.ledger.engine import open_ledger

    async with open_ledger() as ledger:
        yield ledger
