"""Whom a run asks: an agent by its name, also where this Prefect has not seen us before."""

from __future__ import annotations

from prefect.client.orchestration import PrefectClient

from daybook import repository
from daybook.agents import documents
from daybook.agents.base import Agent
from daybook.errors import AgentMisconfigured, UnknownName


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
    await documents.ensure_default(client)
    return await documents.get(client, name)
