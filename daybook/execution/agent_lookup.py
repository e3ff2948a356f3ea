"""Lookup of an agent by name, also in a Prefect server that has no Daybook blocks yet."""

from __future__ import annotations

from prefect.client.orchestration import PrefectClient

from daybook import repository
from daybook.agents import documents
from daybook.agents.base import Agent
from daybook.errors import AgentMisconfigured, LedgerKeyMissing, UnknownName


async def find_agent(client: PrefectClient, name: str) -> Agent:
    """Return the agent of that name; make the default agent if it is missing.

    Raise what `documents.get` raises.
    """
    try:
        return await documents.get(client, name)
    except (AgentMisconfigured, UnknownName):
        if name != documents.DEFAULT:
            raise
    # A direct call may be the first contact of this Prefect server with Daybook.
    await repository.load_entry_point("blocks/__init__.py").register(client)
    try:
        await documents.ensure_default(client)
    except LedgerKeyMissing as error:
        raise AgentMisconfigured(f'agent "{name}": {error}') from None
    return await documents.get(client, name)
