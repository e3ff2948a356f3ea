"""Checks that need an external system, run before a job is stored: addresses, agents, tools,
channels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from daybook import owners
from daybook.errors import AgentMisconfigured, InvalidInput, UnknownName
from daybook.jobs import limits
from daybook.jobs.actions import Action, AgentPrompt, Heartbeat, ToolCall, Webhook
from daybook.jobs.checks import Check
from daybook.jobs.model import Job
from daybook.jobs.notify import Notify

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

    from daybook.http.guard import Guard


async def check_action(client: PrefectClient, job: Job, owner: str) -> list[str]:
    """Refuse an address, agent or tool that the job could not use. Return hints for a person."""
    notes = await _check_target(client, job.action, owner)
    return notes + await _check_precondition(client, job.policy.check, owner)


async def _check_target(client: PrefectClient, action: Action, owner: str) -> list[str]:
    match action:
        case Webhook():
            from daybook.execution import webhook

            webhook.check(action, _guard(owner))
            return await _missing_secrets(client, action.headers)
        case ToolCall():
            notes = await _check_tool(client, action, owner)
            return notes + await _missing_secrets(client, action.params)
        case AgentPrompt():
            await _check_agent(client, action)
            return []
        case Heartbeat():
            await _check_agent(client, action)
            if action.gate_agent:
                await _require_agent(client, action.gate_agent, "gate_agent")
            return []


async def _check_precondition(client: PrefectClient, check: Check, owner: str) -> list[str]:
    """Check the precondition (`policy.check`) in the same way; an error names the field `check`."""
    try:
        if check.agent:
            await _require_agent(client, check.agent, "agent")
        if check.tool:
            call = ToolCall(tool=check.tool, params=check.params)
            return await _check_target(client, call, owner)
    except InvalidInput as error:
        raise InvalidInput("check", f"{error.field}: {error.problem}", error.hint) from None
    return []


async def check_notify(client: PrefectClient, notify: Notify, owner: str) -> None:
    """Refuse a channel or an address that a job of ``owner`` could never use."""
    from daybook.delivery import channels

    guard = _guard(owner)
    for field in ("on_complete", "on_fail"):
        if url := getattr(notify, field):
            try:
                guard.check(url)
            except InvalidInput as error:
                raise InvalidInput(field, error.problem, error.hint) from None
    if notify.channel:
        await channels.check(client, notify.channel, notify.chat_id, owner=_judged_owner(owner))


async def _check_tool(client: PrefectClient, action: ToolCall, owner: str) -> list[str]:
    from daybook.http import secrets
    from daybook.tools import catalog
    from daybook.tools.base import ToolUnreachable
    from daybook.tools.server_blocks import PrefectServers

    secrets.refuse_literal_params(action.params)
    try:
        tool = await catalog.find(action.tool, PrefectServers(client), _guard(owner))
    except ToolUnreachable as error:
        return [f"{error}; so tool and parameters are checked when it is called"]
    catalog.check_params(tool, action.params)
    return []


async def _missing_secrets(client: PrefectClient, named_in: Any) -> list[str]:
    """Return hints for secrets that a job names and that do not exist yet."""
    from daybook.http import secrets
    from daybook.resources import secrets as secret_blocks

    named = secrets.referenced_names(named_in)
    if not named:
        return []
    known = {each["name"] for each in await secret_blocks.list_secrets(client)}
    return [
        f"the secret {name} does not exist yet, and without it the job fails; "
        f"`daybook secrets add {name}` keeps it"
        for name in sorted(named - known)
    ]


async def has_agent(client: PrefectClient, name: str) -> bool:
    """Return whether an agent with this name exists."""
    from daybook.agents import documents

    return name in await documents.names(client)


async def _require_agent(client: PrefectClient, name: str, field: str) -> None:
    from daybook.agents import documents

    known = await documents.names(client)
    if name not in known and name not in {f"{slug}/{each}" for each, slug in known.items()}:
        raise UnknownName(field, name, known)


async def _check_agent(client: PrefectClient, action: AgentPrompt | Heartbeat) -> None:
    from daybook.agents import documents, kinds

    await _require_agent(client, action.agent, "agent")
    if not action.model:
        return
    try:
        kinds.check_model(await documents.get(client, action.agent), action.model)
    except AgentMisconfigured as error:
        raise InvalidInput("model", str(error)) from None


def _judged_owner(owner: str) -> str:
    """Return the owner whose rules apply: an agent's own, even for another owner's job."""
    actor = owners.current_actor()
    return actor.owner if actor.is_agent else owner


def _guard(owner: str) -> Guard:
    """Return the guard of the owner whose rules apply.

    It is strict for what an agent owns, and for what a model writes, regardless of its owner; the
    allowed hosts are those of the owner's limits, as in the run.
    """
    from daybook.http.guard import Guard, Rule

    whose = _judged_owner(owner)
    return Guard.from_settings(
        Rule.for_owner(whose, owners.current_actor().via), limits.load_limits(whose)
    )
