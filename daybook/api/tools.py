"""Operations on tools and tool servers: list, show, call, test, add, remove."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from daybook.api.document_users import refuse_if_used, stored_jobs
from daybook.errors import DaybookError, UnknownName
from daybook.http.guard import Guard, Rule
from daybook.jobs.actions import ToolCall
from daybook.jobs.model import read_parameters
from daybook.ledger.tables import new_id
from daybook.prefect import client as prefect
from daybook.processes import locations
from daybook.tools import calls, catalog
from daybook.tools.base import ToolInfo
from daybook.tools.server_blocks import STORE, PrefectServers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


async def list_tools() -> dict[str, Any]:
    """Return every tool that can be called here.

    ``{"tools": [{"name", "description", "schema", "source"}], "absent": {name: why}}``, where
    ``absent`` has the servers and Python tools that could not be listed.
    """
    async with _servers() as servers:
        tools, absent = await catalog.list_tools(servers)
    return {"tools": [_tool_view(each) for each in tools], "absent": absent}


async def show(name: str) -> dict[str, Any]:
    """Return one tool as in `list_tools`, or a saved server: ``{"name", "settings", "problem"}``.

    Both have the names of the jobs that use them as ``jobs``; a server has the names of its tools
    as ``tools``, which is None if it could not be reached.
    """
    async with _servers() as servers:
        if name in await servers.names():
            server = await servers.describe(name)
            try:
                tools = [each.name for each in await catalog.list_server_tools(name, servers)]
            except DaybookError as error:
                server |= {"tools": None, "problem": server["problem"] or str(error)}
            else:
                server |= {"tools": tools}
            return server | {"jobs": await _users(name)}
        tool = await catalog.find(name, servers, Guard.from_settings(Rule.OPERATOR))
    return _tool_view(tool) | {"jobs": await _users_of_tool(name)}


async def call(name: str, params: Mapping[str, Any], timeout: float = 30.0) -> dict[str, Any]:
    """Call a tool once, in this process, outside of any job; ``timeout`` in seconds.

    Return ``{"tool", "status", "output", "result", "reason", "error"}``. Raise `InvalidInput`, also
    for params that no job could have.
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
    return {
        "tool": name,
        "status": str(outcome.status),
        "output": outcome.output,
        "result": outcome.result["result"] if outcome.result else None,
        "reason": outcome.reason,
        "error": outcome.error,
    }


async def test(name: str | None = None) -> list[dict[str, Any]]:
    """Start or connect to one saved server, or all of them, and list their tools.

    Return ``[{"server", "tools", "seconds", "problem"}]``; ``tools`` are names, and ``problem`` is
    None if the server answered. Raise `UnknownName`.
    """
    async with _servers() as servers:
        if name is not None:
            await servers.describe(name)
        return [
            await _tested(each, servers) for each in ([name] if name else await servers.names())
        ]


async def add(name: str, settings: Mapping[str, Any], *, replace: bool = False) -> dict[str, Any]:
    """Store a server as a Prefect block; ``settings`` are those of `ToolServerSettings`.

    A command is stored with the full path of its program. Return the server as `show` does, without
    its jobs. An unreachable server or a missing secret is a problem in the result, not an error:
    the worker may run elsewhere.
    """
    STORE.check_name(name)
    parsed = STORE.validate(settings)
    if parsed.command:
        command, _ = locations.resolve_command(parsed.command, parsed.work_dir)
        settings = {**settings, "command": command}
    async with prefect.connected() as client:
        await prefect.check_connection(client)
        servers = PrefectServers(client)
        await servers.add(name, settings, replace=replace)
        server = await servers.describe(name)
        tested = await _tested(name, servers)
    return server | {"tools": tested["tools"], "problem": tested["problem"]}


async def remove(name: str) -> None:
    """Delete a server. Raise `InvalidInput` if jobs call a tool of it."""
    refuse_if_used("tool server", name, await _users(name))
    async with prefect.connected() as client:
        await prefect.check_connection(client)
        await STORE.remove(client, name)


@asynccontextmanager
async def _servers() -> AsyncIterator[PrefectServers]:
    async with prefect.connected() as client:
        yield PrefectServers(client)


async def _tested(name: str, servers: PrefectServers) -> dict[str, Any]:
    started, tools, problem = time.monotonic(), None, None
    try:
        tools = [each.name for each in await catalog.list_server_tools(name, servers)]
    except DaybookError as error:
        if isinstance(error, UnknownName) and error.field != "secret":
            raise  # the server itself is gone
        problem = str(error)
    seconds = round(time.monotonic() - started, 3)
    return {"server": name, "tools": tools, "seconds": seconds, "problem": problem}


def _tool_view(tool: ToolInfo) -> dict[str, Any]:
    return {
        "name": tool.name,
        "description": tool.description,
        "schema": tool.schema,
        "source": tool.source,
    }


async def _users(server: str) -> list[str]:
    """Return the jobs that call a tool of a saved server."""
    return [name for name, tool in await _tool_calls() if tool.startswith(f"{server}.")]


async def _users_of_tool(name: str) -> list[str]:
    return [job for job, tool in await _tool_calls() if tool == name]


async def _tool_calls() -> list[tuple[str, str]]:
    """Return the name of each job that calls a tool, and the tool's name."""
    jobs = await stored_jobs()
    listed = [(each.row.name, getattr(each.job.action, "tool", None)) for each in jobs]
    return [(job, tool) for job, tool in listed if tool]
