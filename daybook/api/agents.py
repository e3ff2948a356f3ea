"""Operations on agents: add, list, show, test, remove."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from daybook.agents import documents, kinds, providers
from daybook.agents.base import AgentRequest
from daybook.agents.command import CommandSettings
from daybook.agents.model_settings import ModelSettings
from daybook.api.document_users import refuse_if_used, stored_jobs
from daybook.errors import AgentMisconfigured, InvalidInput
from daybook.execution import agent_tools, mcp_config
from daybook.ledger.tables import new_id
from daybook.prefect import client as prefect
from daybook.processes import locations
from daybook.tools.server_blocks import PrefectServers

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

TEST_PROMPT = "Say in one sentence that you are ready."


async def add(
    name: str, kind: str, fields: Mapping[str, Any], *, replace: bool = False
) -> dict[str, Any]:
    """Store an agent as a Prefect block; ``kind`` is `offline`, `command` or `model`.

    With ``replace`` it replaces the agent with this name, and that agent's key is deleted. A
    command is stored with the full path of its program. Return the agent as `show` does, without
    its jobs, and with ``notes``, hints for a person.
    """
    settings, notes = _check(kind, fields), []
    if isinstance(settings, CommandSettings):
        command, warning = locations.resolve_command(settings.command, settings.work_dir)
        fields = {**fields, "command": command}
        notes = [warning] if warning else []
    async with prefect.connected() as client:
        await prefect.check_connection(client)
        await _check_tools(settings, client)
        await documents.add(client, name, kind, fields, replace=replace)
        return await documents.describe(client, name) | {"notes": notes}


async def list_agents() -> list[dict[str, Any]]:
    """Return all agents by name: `{"name", "kind", "type", "settings", "problem"}`, without
    secrets.
    """
    async with prefect.connected() as client:
        names = await documents.names(client)
        return [await documents.describe(client, name) for name in names]


async def show(name: str) -> dict[str, Any]:
    """Return one agent, with the names of the jobs that use it as `jobs`."""
    async with prefect.connected() as client:
        described = await documents.describe(client, name)
    return described | {"jobs": await _users(name)}


async def test(name: str, prompt: str = TEST_PROMPT, timeout: float = 60.0) -> dict[str, Any]:
    """Ask the agent once, outside of any job.

    Return `{"agent", "output", "cut", "result", "model", "usage"}`; `AgentReply` describes ``cut``.
    Raise the `AgentError` with which a run would fail.
    """
    async with prefect.connected() as client:
        agent = await documents.get(client, name)
    reply = await agent.answer(AgentRequest(prompt, timeout, occurrence=f"test:{new_id()}"))
    return {
        "agent": reply.agent,
        "output": reply.text,
        "cut": reply.cut,
        "result": reply.result,
        "model": reply.model,
        "usage": reply.usage or {},
    }


async def remove(name: str) -> None:
    """Delete an agent. Raise `InvalidInput` if jobs use it."""
    refuse_if_used("agent", name, await _users(name))
    async with prefect.connected() as client:
        await prefect.check_connection(client)
        await documents.remove(client, name)


async def _check_tools(settings: BaseModel, client: PrefectClient) -> None:
    """Refuse tools of servers that do not exist."""
    servers = PrefectServers(client)
    match settings:
        case ModelSettings(tools=[_, *_]):
            await agent_tools.check(settings.tools, servers)
        case CommandSettings(tools=[_, *_]):
            await mcp_config.find(settings.tools, servers)


def _check(kind: str, fields: Mapping[str, Any]) -> BaseModel:
    """Refuse an unknown provider before anything is stored."""
    settings: BaseModel = kinds.find_kind(kind).validate(fields)
    if isinstance(settings, ModelSettings):
        try:
            providers.check(settings)
        except AgentMisconfigured as error:
            raise InvalidInput("model", str(error)) from None
    return settings


async def _users(name: str) -> list[str]:
    return [
        each.row.name
        for each in await stored_jobs()
        if any(_may_match(agent, name) for agent in each.job.agents())
    ]


def _may_match(first: str, second: str) -> bool:
    """Return whether two references, each a name or ``<slug>/<name>``, can mean the same agent."""
    (slug, _, name), (other_slug, _, other_name) = first.rpartition("/"), second.rpartition("/")
    return name == other_name and (slug == other_slug or not (slug and other_slug))
