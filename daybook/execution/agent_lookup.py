"""Whom a run asks: an agent by its name, also where this Prefect has not seen us before."""

from __future__ import annotations

from prefect.client.orchestration import PrefectClient

from daybook import repository
from daybook.agents import documents
from daybook.agents.base import Agent
from daybook.errors import AgentMisconfigured, LedgerKeyMissing, UnknownName


async def agent(client: PrefectClient, name: str) -> Agent:
    """The agent of that name; the default one is made where it is not there. Raises as
    `documents.get` does.
    """
    try:
        return await documents.get(client, name)
    except (AgentMisconfigured, UnknownName):
        if name != documents.DEFAULT:
            raise
    # A direct call may be the first thing that this Prefect sees of us.
    await repository.load_door("blocks/__init__.py").register(client)
    try:
        await documents.ensure_default(client)
    except LedgerKeyMissing as error:
        raise AgentMisconfigured(f'agent "{name}": {error}') from None
    return await documents.get(client, name)
