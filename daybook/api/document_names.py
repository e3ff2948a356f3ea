"""Names of settings documents, read from the ledger's copies: without Prefect, for Tab."""

from __future__ import annotations

from typing import Literal

from daybook.agents import kinds
from daybook.delivery import destinations
from daybook.hooks import documents as hooks
from daybook.ledger.engine import open_ledger
from daybook.resources import copies, secrets
from daybook.tools import server_blocks

Documents = Literal["agents", "secrets", "tool servers", "destinations", "hooks"]


async def names(documents: Documents) -> list[str]:
    """Return the names of the documents that have a copy, sorted. Raises `LedgerUnreachable`."""
    slugs = {
        "agents": [each.slug for each in kinds.KINDS.values()],
        "secrets": [secrets.STORE.slug],
        "tool servers": [server_blocks.STORE.slug],
        "destinations": [destinations.STORE.slug],
        "hooks": [hooks.STORE.slug],
    }[documents]
    async with open_ledger() as ledger, ledger.read() as session:
        return await copies.names(session, slugs)
