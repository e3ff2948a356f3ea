"""Operations on tools and tool servers: list, show, call, test, add, remove."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, Field

from daybook.agents import documents
from daybook.api.documents import Documents, stored_jobs
from daybook.errors import DaybookError, UnknownName
from daybook.http.guard import Guard, Rule
from daybook.jobs.actions import ToolCall
from daybook.jobs.model import read_parameters
from daybook.json_text import JsonObject
from daybook.ledger.tables import new_id
from daybook.prefect import client as prefect
from daybook.processes import locations
from daybook.resources import secrets
from daybook.resources.store import DocumentInfo
from daybook.tools import calls, catalog, server_presets
from daybook.tools.base import ToolInfo
from daybook.tools.server_blocks import STORE, PrefectServers
from daybook.tools.server_settings import ToolServerSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from prefect.client.orchestration import PrefectClient
    from prefect.client.schemas.objects import BlockDocument


class ListedTool(BaseModel, frozen=True, serialize_by_alias=True):
    """A tool, with the fields of `ToolInfo`.

    In JSON, ``json_schema`` is named `schema`. A field of that name would hide a method of
    pydantic's models.
    """

    name: str
    description: str
    json_schema: JsonObject = Field(serialization_alias="schema")
    source: str

    @classmethod
    def of(cls, tool: ToolInfo) -> Self:
        return cls(
            name=tool.name,
            description=tool.description,
            json_schema=tool.schema,
            source=tool.source,
        )


class ToolList(BaseModel, frozen=True):
    """The tools that this process can call.

    ``absent`` maps the name of each server, Python tool or plugin that this process cannot use to
    the reason.
    """

    tools: list[ListedTool]
    absent: dict[str, str]


class ToolDetails(ListedTool, frozen=True):
    """A tool with the names of the jobs that call it."""

    jobs: list[str]


class ToolServerDetails(DocumentInfo, frozen=True):
    """A saved server with the names of its tools, and of the jobs that call any of these tools.

    If the server did not answer, ``tools`` is None, and ``problem`` is the reason.
    """

    tools: list[str] | None
    jobs: list[str]


class SavedToolServer(ToolServerDetails, frozen=True):
    """A server that was added, with ``notes``, which are hints for the user."""

    notes: list[str]


class ToolServerTest(BaseModel, frozen=True):
    """Result of testing a saved server. The test took ``seconds``.

    ``tools`` are the names of the server's tools. If the server did not answer, ``tools`` is None,
    and ``problem`` is the reason.
    """

    server: str
    tools: list[str] | None
    seconds: float
    problem: str | None


@dataclass(frozen=True)
class PresetForm:
    """A preset of a server for a form, with the ``settings`` with which the form starts.

    ``needs`` says what the server needs, and where the user gets it. If it ``is_url``, it needs the
    secret with the name of the preset, for its host.
    """

    settings: Mapping[str, Any]
    needs: str
    is_url: bool


class ToolCallResult(BaseModel, frozen=True):
    """The result of a call to ``tool``.

    ``result`` is the JSON value of the tool's answer. `Outcome` describes the other fields.
    """

    tool: str
    status: str
    output: str | None
    result: Any
    reason: str
    error: str | None


def preset_form(name: str) -> PresetForm:
    """Return a preset for a form. Raise `InvalidInput` for an unknown ``name``."""
    settings, preset = server_presets.form_settings(name), server_presets.PRESETS[name]
    needs = [f"Needs {preset.source}."] if preset.source else []
    if preset.needs_folder:
        needs.append("Add the absolute path of a folder as the last line of the command.")
    elif preset.environment:
        names = ", ".join(preset.environment)
        needs.append(f"The worker's environment has to have {names}.")
    return PresetForm(settings, " ".join(needs), preset.url != "")


async def list_tools() -> ToolList:
    """Return the tools that this process can call, sorted by name, and the absent tools."""
    async with _servers() as servers:
        tools, absent = await catalog.list_tools(servers)
    return ToolList(tools=[ListedTool.of(each) for each in tools], absent=absent)


async def show(name: str) -> ToolDetails | ToolServerDetails:
    """Return one tool or saved server, with the names of the jobs that use it.

    Raise `UnknownName`, `InvalidInput` for an invalid reference, and `ToolUnreachable` if the
    tool's server does not answer.
    """
    async with prefect.connected() as client:
        servers = PrefectServers(client)
        if name in await servers.names():
            return await SERVERS.read(client, name)
        tool = await catalog.find(name, servers, Guard.from_settings(Rule.OPERATOR))
    jobs = [job for job, called in await _tool_calls() if called == name]
    return ToolDetails(**dict(ListedTool.of(tool)), jobs=jobs)


async def call(name: str, params: Mapping[str, Any], timeout: float = 30.0) -> ToolCallResult:
    """Call a tool once, outside any job, in this process. ``timeout`` is in seconds.

    Raise `InvalidInput`, also for params that a job could not have.
    """
    action, *_ = read_parameters("tool-call", {"tool": name, "params": dict(params)})
    assert isinstance(action, ToolCall)
    async with _servers() as servers:
        prepared = await calls.prepare(
            action.tool,
            action.params,
            f"test:{new_id()}",
            servers,
            servers.secrets,
            Guard.from_settings(Rule.OPERATOR),
        )
    called = await calls.call(prepared, timeout=timeout)
    outcome = called.outcome
    return ToolCallResult(
        tool=name,
        status=str(outcome.status),
        output=outcome.output,
        result=outcome.result["result"] if outcome.result else None,
        reason=outcome.reason,
        error=outcome.error,
    )


async def test(name: str | None = None) -> list[ToolServerTest]:
    """Connect to the saved server ``name``, or to all, and list their tools, or the server's error.

    Raise `UnknownName` for an unknown server.
    """
    async with _servers() as servers:
        return [
            await _tested(each, servers) for each in ([name] if name else await servers.names())
        ]


class _ToolServers(Documents[ToolServerDetails]):
    """The saved servers, with their tools and the jobs that call these tools.

    The worker may run on another machine. So for an unreachable server or a missing secret, `add`
    returns a problem and raises no error.
    """

    def validate(self, settings: Mapping[str, Any]) -> ToolServerSettings:
        """Return the settings in the form to store, with the full path of the program.

        Raise `InvalidInput` for invalid settings.
        """
        return resolve_program(STORE.validate(settings))[0]

    async def more(
        self, client: PrefectClient, documents: Sequence[BlockDocument]
    ) -> Callable[[str, Mapping[str, Any]], Mapping[str, Any]]:
        servers, names = PrefectServers(client), [str(each.name) for each in documents]
        tested = {name: await _tested(name, servers) for name in names}
        users = {name: await _users(name) for name in names}
        return lambda name, data: {
            "tools": tested[name].tools,
            "jobs": users[name],
            "problem": STORE.check(data)[1] or tested[name].problem,
        }

    async def users(self, client: PrefectClient, name: str) -> list[str]:
        """Return the names of the jobs that call a tool of the server.

        If there are none, return the agents that may call one, each as `the agent NAME`.
        """
        entries = await documents.tool_entries(client)
        return await _users(name) or [
            f"the agent {agent}"
            for agent, tools in entries
            if name in {each.partition(".")[0] for each in tools}
        ]


def resolve_program(settings: ToolServerSettings) -> tuple[ToolServerSettings, list[str]]:
    """Return the settings with the full path of the program, and notes for the user."""
    if not settings.command:
        return settings, []
    command, note = locations.resolve_command(settings.command, settings.work_dir)
    return settings.model_copy(update={"command": command}), [note] if note else []


SERVERS = _ToolServers(STORE, ToolServerDetails)
remove = SERVERS.remove
PRESETS = tuple(server_presets.PRESETS)
"""Names of the known servers."""


async def list_servers() -> list[DocumentInfo]:
    """Return the saved servers, sorted by name, without a connection to any of them."""
    async with _servers() as servers:
        return await servers.every()


async def add(
    name: str,
    settings: Mapping[str, Any],
    *,
    replace: bool = False,
    preset: str = "",
    is_complete: bool = False,
) -> SavedToolServer:
    """Store a server and return it. With ``replace``, replace the server with this name.

    ``preset`` is one of `PRESETS`; a preset adds its settings to ``settings``, unless
    ``is_complete``, because they come from the preset's form. The notes name what the preset needs
    and what this machine or Prefect does not have. Raise `InvalidInput`; after this error, nothing
    was changed.
    """
    fields = server_presets.apply(preset, settings) if preset and not is_complete else settings
    if preset:
        server_presets.check_folder(preset, fields)
    added, notes = await SERVERS.add(name, fields, replace=replace), list[str]()
    if preset:
        async with prefect.connected() as client:
            stored = await secrets.STORE.names(client)
        notes = server_presets.missing(preset, str(added.settings["url"]), stored, os.environ)
    return SavedToolServer(**dict(added), notes=notes)


@asynccontextmanager
async def _servers() -> AsyncIterator[PrefectServers]:
    async with prefect.connected() as client:
        yield PrefectServers(client)


async def _tested(name: str, servers: PrefectServers) -> ToolServerTest:
    started, tools, problem = time.monotonic(), None, None
    try:
        tools = [each.name for each in await catalog.list_server_tools(name, servers)]
    except DaybookError as error:
        if isinstance(error, UnknownName) and error.field != "secret":
            raise  # the server itself does not exist
        problem = str(error)
    seconds = round(time.monotonic() - started, 3)
    return ToolServerTest(server=name, tools=tools, seconds=seconds, problem=problem)


async def _users(server: str) -> list[str]:
    """Return the names of the jobs that call a tool of a saved server."""
    users = [name for name, tool in await _tool_calls() if tool.startswith(f"{server}.")]
    return list(dict.fromkeys(users))


async def _tool_calls() -> list[tuple[str, str]]:
    """Return a pair for each tool that a job or its check calls: the job's name and the tool."""
    return [(each.row.name, tool) for each in await stored_jobs() for tool in each.job.tools()]
