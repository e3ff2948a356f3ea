"""What can be asked of tools and of the servers that have them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from daybook.errors import DaybookError, InvalidInput, UnknownName
from daybook.http.guard import Guard, Rule
from daybook.jobs import store
from daybook.jobs.actions import ToolCall
from daybook.jobs.model import read_parameters
from daybook.ledger.engine import open_ledger
from daybook.ledger.tables import new_id
from daybook.tools import calls, catalog
from daybook.tools.base import ToolInfo
from daybook.tools.server_blocks import PrefectServers, checked

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


async def list_tools() -> dict[str, Any]:
    """Every tool that can be called here.

    ``{"tools": [{"name", "description", "schema", "source"}], "absent": {name: why}}``, where
    ``absent`` has the servers, and the Python tools, that could not be asked.
    """
    async with _servers() as servers:
        found, absent = await catalog.listed(servers)
    return {"tools": [_shown(each) for each in found], "absent": absent}


async def show(name: str) -> dict[str, Any]:
    """One tool as in `list_tools`, or a saved server: ``{"name", "settings", "problem"}``.

    Both with the names of the jobs that use it as ``jobs``, a server with those of its tools as
    ``tools``, which is None where it could not be asked.
    """
    async with _servers() as servers:
        if name in await servers.names():
            found = await servers.describe(name)
            try:
                tools = [each.name for each in await catalog.of_server(name, servers)]
            except DaybookError as error:
                found |= {"tools": None, "problem": found["problem"] or str(error)}
            else:
                found |= {"tools": tools}
            return found | {"jobs": await _users(name)}
        tool = await catalog.find(name, servers, Guard.here(Rule.OPERATOR))
    return _shown(tool) | {"jobs": await _users_of_tool(name)}


async def call(name: str, params: Mapping[str, Any], timeout: float = 30.0) -> dict[str, Any]:
    """Call a tool once, here and now, outside of any job; ``timeout`` in seconds.

    ``{"tool", "status", "output", "result", "reason", "error"}``. Raises `InvalidInput`, also for
    what no job could have for its params.
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
            Guard.here(Rule.OPERATOR),
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
    """Start or reach a saved server, or each of them, and ask for its tools.

    ``[{"server", "tools", "seconds", "problem"}]``; ``tools`` are names, and ``problem`` None where
    it answered. Raises `UnknownName`.
    """
    async with _servers() as servers:
        if name is not None:
            await servers.describe(name)
        return [
            await _tested(each, servers) for each in ([name] if name else await servers.names())
        ]


async def add(name: str, settings: Mapping[str, Any], *, replace: bool = False) -> dict[str, Any]:
    """Keep a server as a Prefect block; ``settings`` are those of `ToolServerSettings`.

    A program is kept with its path. The server as in `show`, without its jobs. That it cannot be
    reached now, or that a secret of its is not there yet, is a problem, not a refusal: the worker
    may be elsewhere.
    """
    from daybook.prefect import client as prefect
    from daybook.processes import locations
    from daybook.resources import documents
    from daybook.tools.server_blocks import TYPE

    documents.check_name(TYPE, name)
    wanted = checked(settings)
    if wanted.command:
        command, _ = locations.resolved(wanted.command, wanted.work_dir)
        settings = {**settings, "command": command}
    async with prefect.connected() as client:
        await prefect.answers(client)
        servers = PrefectServers(client)
        await servers.add(name, settings, replace=replace)
        found = await servers.describe(name)
        tested = await _tested(name, servers)
    return found | {"tools": tested["tools"], "problem": tested["problem"]}


async def remove(name: str) -> None:
    """Forget a server; refused while jobs call a tool of it."""
    from daybook.prefect import client as prefect

    if users := await _users(name):
        raise InvalidInput(
            "tool server", f'"{name}" is used by {", ".join(users)}', "edit those jobs first"
        )
    async with prefect.connected() as client:
        await prefect.answers(client)
        await PrefectServers(client).remove(name)


@asynccontextmanager
async def _servers() -> AsyncIterator[PrefectServers]:
    from daybook.prefect import client as prefect

    async with prefect.connected() as client:
        yield PrefectServers(client)


async def _tested(name: str, servers: PrefectServers) -> dict[str, Any]:
    began, tools, problem = time.monotonic(), None, None
    try:
        tools = [each.name for each in await catalog.of_server(name, servers)]
    except DaybookError as error:
        if isinstance(error, UnknownName) and error.field != "secret":
            raise  # the server itself is gone
        problem = str(error)
    seconds = round(time.monotonic() - began, 3)
    return {"server": name, "tools": tools, "seconds": seconds, "problem": problem}


def _shown(tool: ToolInfo) -> dict[str, Any]:
    return {
        "name": tool.name,
        "description": tool.description,
        "schema": tool.schema,
        "source": tool.source,
    }


async def _users(server: str) -> list[str]:
    """The jobs that call a tool of a saved server."""
    return [name for name, tool in await _calling() if tool.startswith(f"{server}.")]


async def _users_of_tool(name: str) -> list[str]:
    return [job for job, tool in await _calling() if tool == name]


async def _calling() -> list[tuple[str, str]]:
    """The name of each job that calls a tool, and the tool's."""
    async with open_ledger() as ledger, ledger.read() as session:
        stored = await store.every(session)
    told = [(each.row.name, getattr(each.job.action, "tool", None)) for each in stored]
    return [(job, tool) for job, tool in told if tool]
