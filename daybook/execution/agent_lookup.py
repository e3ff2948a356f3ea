"""Lookup of an agent by name, also in a Prefect server that has no Daybook blocks yet."""

from __future__ import annotations

from prefect.client.orchestration import PrefectClient

from daybook import repository
from daybook.agents import documents
from daybook.agents.base import Agent
from daybook.errors import AgentMisconfigured, LedgerKeyMissing, UnknownName
from daybook.http.guard import Guard, Rule
from daybook.jobs import limits, provenance
from daybook.runs.claim_requests import Granted


async def find_agent(client: PrefectClient, name: str) -> Agent:
    """Return the agent with this name; make the default agent if it is missing.

    Raise the errors of `documents.get`.
    """
    try:
        return await documents.get(client, name)
    except (AgentMisconfigured, UnknownName):
        if name != documents.DEFAULT_AGENT:
            raise
    # A direct call may be the first contact of this Prefect server with Daybook.
    await repository.load_entry_point("blocks/__init__.py").register(client)
    try:
        await documents.ensure_default(client)
    except LedgerKeyMissing as error:
        raise AgentMisconfigured(f'agent "{name}": {error}') from None
    return await documents.get(client, name)


def guard_of(granted: Granted, parts: tuple[str, ...] = provenance.ACTION_PARTS) -> Guard:
    """Return the guard for an address of the run.

    Its rule is the stricter one of the job's owner and of the last writer of these ``parts``, with
    the owner's hosts. A direct call has the operator's.
    """
    if granted.job is None:
        return Guard.from_settings(Rule.OPERATOR)
    row = granted.job.row
    writer = provenance.author_of(granted.job.revision.written_by, row.created_by, parts)
    return Guard.from_settings(Rule.for_owner(row.owner, writer), limits.load_limits(row.owner))
