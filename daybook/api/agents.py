"""Operations on agents: offer, add, list, show, edit, test, remove."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from daybook.agents import candidates, documents, kinds, presets, providers, spec
from daybook.agents.base import AgentRequest
from daybook.agents.command import CommandSettings
from daybook.agents.documents import AgentInfo
from daybook.agents.model_settings import ModelSettings
from daybook.api.documents import names as names_of_documents
from daybook.api.documents import refuse_if_used, stored_jobs
from daybook.errors import AgentMisconfigured, InvalidInput
from daybook.execution import agent_tools, builtin_tools, mcp_config, program_folders
from daybook.execution.builtin_tools import first_settings
from daybook.jobs.actions import DEFAULT_AGENT
from daybook.jobs.store import StoredJob
from daybook.ledger.states import Usage
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
    "Edit the agent to store one: here, or with `daybook agents edit --key-stdin`."
)
TEST_PROMPT = "Say in one sentence that you are ready."


class AgentDetails(AgentInfo, frozen=True):
    """An agent with the names of the jobs that use it."""

    jobs: list[str]


class SavedAgent(AgentDetails, frozen=True):
    """An agent that was added or changed, with ``notes``, which are hints for the user."""

    notes: list[str]


class AgentTest(BaseModel, frozen=True):
    """A reply of the agent named ``agent``.

    ``output`` is the text of the reply. ``usage`` is empty if the agent did not report it.
    `AgentReply` describes the other fields.
    """

    agent: str
    output: str
    cut: str
    result: Any
    model: str | None
    usage: Usage


@dataclass(frozen=True)
class Offer:
    """The agents that the user can choose from.

    ``models`` are the models of the other providers, for which the user has to type a key. The name
    `default` is free if there is no such agent, or if it is offline.
    """

    found: candidates.Found
    models: list[str]
    is_default_free: bool


async def offer() -> Offer:
    """Return the agents that this machine has. Nothing is asked of them."""
    is_free = await is_default_free()
    found = await candidates.find(candidates.this_machine())
    chosen = [replace(each, settings=first_settings(each)) for each in found.candidates]
    found = replace(found, candidates=chosen)
    titles = {each.title for each in found.candidates}
    models = [each for each in providers.models_with_sdk() if each not in titles]
    return Offer(found, models, is_free)


async def is_default_free() -> bool:
    """Return whether there is no agent `default`, or only an offline one."""
    async with prefect.connected() as client:
        slugs = (await documents.names(client)).get(DEFAULT_AGENT, [])
    return slugs in ([], [kinds.OFFLINE.slug])


async def add(
    name: str, kind: str, fields: Mapping[str, Any], *, replace: bool = False, preset: str = ""
) -> SavedAgent:
    """Store an agent as a Prefect block, and return the agent.

    ``kind`` is the word of one of `kinds.KINDS`. With ``replace``, replace the agent with this
    name; the key of the replaced agent is deleted. ``preset`` is one of `presets.PRESETS`; a preset
    adds settings of a command agent to ``fields``. The command is stored with the full path of its
    program. Raise `InvalidInput`; after this error, nothing was stored.
    """
    fields = presets.apply(preset, fields) if preset else fields
    checked, notes = _check(kind, fields)
    async with prefect.answering() as client:
        await _check_tools(checked, client)
        await documents.add(client, name, kind, checked.model_dump(), replace=replace)
        return SavedAgent(**dict(await _details(client, name)), notes=notes)


def read_spec(text: str) -> dict[str, Any]:
    """Return the settings of a model agent in an agent spec of pydantic-ai, YAML or JSON.

    Raise `InvalidInput` for anything in it that Daybook does not have.
    """
    return spec.read(text, builtin_tools.spec_tools())


async def edit(name: str, changes: Mapping[str, Any]) -> SavedAgent:
    """Change only the given settings of an agent, and only the given ``options``; return the agent.

    A setting or option whose value is None is removed. An `api_key` in ``changes`` replaces the
    stored key. Otherwise the stored key is kept. But if the provider or the URL that gets the key
    changes, the stored key is deleted, and a note reports the deletion. Raise `UnknownName`,
    `Ambiguous`, and `InvalidInput`; after an error, nothing was changed.
    """
    async with prefect.answering() as client:
        kind, stored_name, before = await documents.read(client, name)
        removed = {each for each, value in changes.items() if value is None}
        fields = {**before, **changes}
        for each in removed - before.keys():  # perhaps a setting of another kind of agent
            del fields[each]
        if "options" in changes:
            fields["options"] = {**before.get("options", {}), **changes["options"]}
        loses_key = "api_key" not in changes and _loses_key(fields, before)
        if loses_key:
            fields["api_key"] = ""
        checked, notes = _check(kind.word, fields)
        await _check_tools(checked, client)
        await kind.save(client, stored_name, checked, replace=True)
        edited = await _details(client, f"{kind.slug}/{stored_name}")
    return SavedAgent(**dict(edited), notes=[*notes, KEY_DELETED] if loses_key else notes)


async def check_document(
    client: PrefectClient,
    settings: BaseModel,
    before: Mapping[str, Any] | None,
    *,
    gives_key: bool,
) -> tuple[BaseModel, list[str]]:
    """Return the settings of an agent in the form to store, and notes for the user.

    Unless the document gives a key (``gives_key``), they may have the stored key of ``before``. If
    another provider or URL gets that, leave the key out, and say so in a note. Raise
    `InvalidInput`.
    """
    notes = list[str]()
    has_stored_key = (
        isinstance(settings, ModelSettings)
        and before is not None
        and not gives_key
        and bool(settings.api_key.get_secret_value())
    )
    if has_stored_key and _loses_key(settings.model_dump(), before or {}):
        settings, notes = settings.model_copy(update={"api_key": SecretStr("")}), [KEY_DELETED]
    checked, found = _check_settings(settings)
    await _check_tools(checked, client)
    return checked, [*notes, *found]


def _loses_key(fields: Mapping[str, Any], before: Mapping[str, Any]) -> bool:
    """Return whether a stored key would go to another provider or URL than ``before``."""
    return bool(before.get("api_key")) and _recipient(fields) != _recipient(before)


def _recipient(model_settings: Mapping[str, Any]) -> tuple[str, str]:
    """Return the provider and the URL to which an agent with these settings sends its key."""
    url = str(model_settings.get("base_url", ""))
    provider, _ = providers.split_model(str(model_settings.get("model", "")), url)
    return provider, url


def settings_of(kind: str) -> dict[str, FieldInfo]:
    """Return the fields of a kind's settings."""
    return dict(kinds.find_kind(kind).model.model_fields)


PRESETS = tuple(presets.PRESETS)
"""Names of the known programs."""


def preset_settings(name: str) -> dict[str, Any]:
    """Return the settings of the known program ``name``. Raise `InvalidInput`."""
    return presets.apply(name, {})


def first_tools() -> list[str]:
    """Return the tools of the first model of a home; they only read public sources."""
    return builtin_tools.first_tools()


async def stored_names() -> list[str]:
    """Return the names of the agents that have a copy in the ledger. Works without Prefect."""
    return await names_of_documents(kinds.MODEL.noun)


async def list_agents() -> list[AgentDetails]:
    """Return all agents, sorted by name. Agents of different kinds can have the same name."""
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
    """Ask the agent once, outside any job; wait up to ``timeout`` seconds for its reply.

    Raise `UnknownName`, `Ambiguous`, and the `AgentError` that would fail a run.
    """
    async with prefect.connected() as client:
        agent = await documents.get(client, name)
    reply = await agent.answer(AgentRequest(prompt, timeout, occurrence=f"test:{new_id()}"))
    return AgentTest(
        agent=reply.agent,
        output=reply.text,
        cut=reply.cut,
        # Pydantic cannot dump a name that contains half a surrogate pair.
        result=sanitize(reply.result),
        model=reply.model,
        usage=reply.usage or {},
    )


async def remove(name: str) -> None:
    """Delete an agent. Raise `InvalidInput` if jobs use the agent, `NotFound`, and `Ambiguous`."""
    refuse_if_used("agent", name, _users(name, await stored_jobs()))
    async with prefect.answering() as client:
        await documents.remove(client, name)


async def _check_tools(settings: BaseModel, client: PrefectClient) -> None:
    """Raise `InvalidInput` if a tool of the agent, or the server of a tool, cannot be found.

    Raise it also if the name of a tool is ambiguous.
    """
    servers = PrefectServers(client)
    match settings:
        case ModelSettings(tools=[_, *_]):
            await agent_tools.check(settings.tools, servers)
        case CommandSettings(tools=[_, *_]):
            await program_folders.check(settings.tools, servers)
            await mcp_config.find(settings.tools, servers)


def _check(kind: str, fields: Mapping[str, Any]) -> tuple[BaseModel, list[str]]:
    """Return the settings of an agent, with the full path of its program, and notes for the user.

    Raise `InvalidInput` for invalid settings.
    """
    return _check_settings(kinds.find_kind(kind).validate(fields))


def _check_settings(settings: BaseModel) -> tuple[BaseModel, list[str]]:
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
    """Return the agent, with the names of its users in ``jobs``, by default all jobs.

    Raise `UnknownName`, `Ambiguous`.
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
    """Return whether two references (a name or ``<slug>/<name>``) can mean the same agent."""
    (slug, _, name), (other_slug, _, other_name) = first.rpartition("/"), second.rpartition("/")
    return name == other_name and (slug == other_slug or not (slug and other_slug))
