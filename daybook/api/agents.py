"""Operations on agents: add, list, show, edit, test, remove."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from daybook.agents import documents, kinds, presets, providers
from daybook.agents.base import AgentRequest
from daybook.agents.command import CommandSettings
from daybook.agents.documents import AgentInfo
from daybook.agents.model_settings import ModelSettings
from daybook.api.documents import names as names_of_documents
from daybook.api.documents import refuse_if_used, stored_jobs
from daybook.errors import AgentMisconfigured, InvalidInput
from daybook.execution import agent_tools, mcp_config
from daybook.jobs.store import StoredJob
from daybook.ledger.tables import new_id
from daybook.ledger.texts import sanitize
from daybook.prefect import client as prefect
from daybook.processes import locations
from daybook.tools.server_blocks import PrefectServers

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

KINDS = (kinds.MODEL.word, kinds.COMMAND.word)
"""Kinds of agents that a form offers: agents that ask a model, and agents that run a program."""
KEY_DELETED = (
    "The stored key was deleted, because it belonged to another provider or URL. "
    "`daybook agents edit --key-stdin` stores one."
)
TEST_PROMPT = "Say in one sentence that you are ready."


class AgentDetails(AgentInfo, frozen=True):
    """An agent with the names of the jobs that use it."""

    jobs: list[str]


class SavedAgent(AgentDetails, frozen=True):
    """An agent that was added or changed; ``notes`` are hints for the user."""

    notes: list[str]


class AgentTest(BaseModel, frozen=True):
    """A reply of the agent named ``agent``.

    ``output`` is the text of the reply. ``usage`` is empty if it is unknown. `AgentReply` describes
    the other fields.
    """

    agent: str
    output: str
    cut: str
    result: Any
    model: str | None
    usage: dict[str, Any]


async def add(
    name: str, kind: str, fields: Mapping[str, Any], *, replace: bool = False, preset: str = ""
) -> SavedAgent:
    """Store an agent as a Prefect block; ``kind`` is the word of one of `kinds.KINDS`.

    With ``replace``, replace the agent with this name; its stored key is deleted. ``preset`` is one
    of `presets.PRESETS`, which adds settings of a command agent to ``fields``. A command is stored
    with the full path of its program. If this raises `InvalidInput`, nothing was stored.
    """
    fields = presets.apply(preset, fields) if preset else fields
    checked, notes = _check(kind, fields)
    async with prefect.answering() as client:
        await _check_tools(checked, client)
        await documents.add(client, name, kind, checked.model_dump(), replace=replace)
        return SavedAgent(**dict(await _details(client, name)), notes=notes)


async def edit(name: str, changes: Mapping[str, Any]) -> SavedAgent:
    """Change only the given settings of an agent, and only the given ``options``; return the agent.

    An option that is None is removed. A key in ``changes`` replaces the stored key. Without such a
    key, the stored key is kept, unless the provider or the URL that gets it changes: then the
    stored key is deleted, and a note says so. Raise `UnknownName`, `Ambiguous`, and `InvalidInput`;
    after an error, nothing was changed.
    """
    async with prefect.answering() as client:
        kind, stored_name, before = await documents.read(client, name)
        fields = {**before, **changes}
        if "options" in changes:
            fields["options"] = {**before.get("options", {}), **changes["options"]}
        loses_key = (
            bool(before.get("api_key"))
            and "api_key" not in changes
            and _recipient(fields) != _recipient(before)
        )
        if loses_key:
            fields["api_key"] = ""
        checked, notes = _check(kind.word, fields)
        await _check_tools(checked, client)
        await kind.save(client, stored_name, checked, replace=True)
        edited = await _details(client, f"{kind.slug}/{stored_name}")
    return SavedAgent(**dict(edited), notes=[*notes, KEY_DELETED] if loses_key else notes)


def _recipient(model_settings: Mapping[str, Any]) -> tuple[str, str]:
    """Return the provider and the URL that get the key of these settings."""
    url = str(model_settings.get("base_url", ""))
    provider, _ = providers.split_model(str(model_settings.get("model", "")), url)
    return provider, url


def settings_of(kind: str) -> dict[str, FieldInfo]:
    """Return the fields of a kind's settings, without the fields for secrets."""
    fields = kinds.find_kind(kind).model.model_fields
    return {name: field for name, field in fields.items() if field.annotation is not SecretStr}


async def stored_names() -> list[str]:
    """Return the names of the agents that have a copy in the ledger. Works without Prefect."""
    return await names_of_documents(kinds.MODEL.noun)


async def list_agents() -> list[AgentDetails]:
    """Return all agents, sorted by name; agents of several kinds may share a name."""
    jobs = await stored_jobs()
    async with prefect.connected() as client:
        known = await documents.names(client)
        references = [each for name in known for each in documents.matches(known, name)]
        return [await _details(client, each, jobs) for each in references]


async def show(name: str) -> AgentDetails:
    """Return one agent and the names of the jobs that use it.

    Raise `UnknownName`, `Ambiguous`.
    """
    async with prefect.connected() as client:
        return await _details(client, name)


async def test(name: str, prompt: str = TEST_PROMPT, timeout: float = 60.0) -> AgentTest:
    """Ask the agent once, outside any job; ``timeout`` is in seconds.

    Raise `UnknownName`, `Ambiguous`, and the `AgentError` that would fail a run.
    """
    async with prefect.connected() as client:
        agent = await documents.get(client, name)
    reply = await agent.answer(AgentRequest(prompt, timeout, occurrence=f"test:{new_id()}"))
    return AgentTest(
        agent=reply.agent,
        output=reply.text,
        cut=reply.cut,
        result=sanitize(reply.result),  # pydantic cannot dump a name with half a surrogate pair
        model=reply.model,
        usage=reply.usage or {},
    )


async def remove(name: str) -> None:
    """Delete an agent.

    Raise `InvalidInput` if jobs use it, `NotFound`, and `Ambiguous`.
    """
    refuse_if_used("agent", name, _users(name, await stored_jobs()))
    async with prefect.answering() as client:
        await documents.remove(client, name)


async def _check_tools(settings: BaseModel, client: PrefectClient) -> None:
    """Raise `InvalidInput` for an unknown or ambiguous tool, or a tool of an unknown server."""
    servers = PrefectServers(client)
    match settings:
        case ModelSettings(tools=[_, *_]):
            await agent_tools.check(settings.tools, servers)
        case CommandSettings(tools=[_, *_]):
            await mcp_config.find(settings.tools, servers)


def _check(kind: str, fields: Mapping[str, Any]) -> tuple[BaseModel, list[str]]:
    """Return the settings of an agent, with the full path of its program, and notes about them.

    Raise `InvalidInput` for invalid settings.
    """
    settings: BaseModel = kinds.find_kind(kind).validate(fields)
    match settings:
        case ModelSettings():
            try:
                providers.check(settings)
            except AgentMisconfigured as error:
                raise InvalidInput("model", str(error)) from None
        case CommandSettings():
            command, note = locations.resolve_command(settings.command, settings.work_dir)
            return settings.model_copy(update={"command": command}), [note] if note else []
    return settings, []


async def _details(
    client: PrefectClient, name: str, jobs: Iterable[StoredJob] | None = None
) -> AgentDetails:
    """Return the agent, with the names of the jobs that use it.

    ``jobs`` are the jobs to search, by default all. Raise `UnknownName`, `Ambiguous`.
    """
    described = await documents.describe(client, name)
    return AgentDetails(
        **dict(described), jobs=_users(name, await stored_jobs() if jobs is None else jobs)
    )


def _users(name: str, jobs: Iterable[StoredJob]) -> list[str]:
    return [
        each.row.name
        for each in jobs
        if any(_may_match(agent, name) for agent in each.job.agents())
    ]


def _may_match(first: str, second: str) -> bool:
    """Return whether two references, each a name or ``<slug>/<name>``, can mean the same agent."""
    (slug, _, name), (other_slug, _, other_name) = first.rpartition("/"), second.rpartition("/")
    return name == other_name and (slug == other_slug or not (slug and other_slug))
