"""Lookup of a run's agent, and of the guard for its outgoing requests."""

from __future__ import annotations

from prefect.client.orchestration import PrefectClient

from daybook import repository
from daybook.agents import documents
from daybook.agents.base import StoredAgent
from daybook.errors import AgentMisconfigured, LedgerKeyMissing, UnknownName
from daybook.http.guard import Guard, Rule
from daybook.jobs import limits, provenance
from daybook.jobs.actions import DEFAULT_AGENT
from daybook.runs.claim_requests import Granted


async def find_agent(client: PrefectClient, name: str) -> StoredAgent:
    """Return the agent with this name; create or restore the agent `default` if it is missing.

    Raise the errors of `documents.get`, and `LedgerUnreachable`.
    """
    try:
        return await documents.get(client, name)
    except (AgentMisconfigured, UnknownName):
        if name != DEFAULT_AGENT:
            raise
    # In a direct call, this Prefect server may not have Daybook's block types yet.
    await repository.load_entry_point("blocks/__init__.py").register(client)
    try:
        await documents.ensure_default(client)
    except LedgerKeyMissing as error:
        raise AgentMisconfigured(f'agent "{name}": {error}') from None
    return await documents.get(client, name)


def guard_of(granted: Granted, parts: tuple[str, ...] = provenance.ACTION_PARTS) -> Guard:
    """Return the guard for the run's outgoing addresses; the operator's for a direct call.

    Its rule is the stricter of those for the job's owner and for the last writer of the job's
    ``parts``. The owner's limits contain the allowed hosts.
    """
    if granted.job is None:
        return Guard.from_settings(Rule.OPERATOR)
    row = granted.job.row
    writer = provenance.author_of(granted.job.revision.written_by, row.created_by, parts)
    return Guard.from_settings(Rule.for_owner(row.owner, writer), limits.load_limits(row.owner))
