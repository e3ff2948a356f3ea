"""Lookup of tools by name, and the list of all tools.

======================  ========================================================
``reindex``             the Python tool of exactly that name; dots are allowed
``search.reindex``      the tool ``reindex`` of the saved server ``search``
``https://host/p#t``    the tool ``t`` of the MCP server at that URL
======================  ========================================================

The name of a Python tool is refused if the part before its first dot is the name of a saved server.
For every job, the operator's rule for outgoing addresses applies to saved servers. The job's own
rule applies to a URL in the job.
"""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from daybook import registry
from daybook.errors import InvalidInput, ToolUnreachable, UnknownName
from daybook.http.guard import Guard, Rule
from daybook.jobs.action_fields import is_address
from daybook.json_text import JsonObject
from daybook.tools import connection, python_tools, schemas
from daybook.tools.base import ToolInfo
from daybook.tools.connection import ToolLocation
from daybook.tools.server_settings import ToolServerSettings

if TYPE_CHECKING:
    from daybook.tools.connection import Connection
    from daybook.tools.server_blocks import ToolServers

MAX_SUGGESTIONS = 12
"""Maximum number of names that the error for an unknown name lists."""


async def find(name: str, servers: ToolServers, guard: Guard) -> ToolInfo:
    """Return the tool with this name, as its server currently describes it.

    Raise `InvalidInput` (`UnknownName` with the nearest names, `OutgoingRefused`) and
    `ToolUnreachable`.
    """
    location = await locate(name, servers, guard)
    if location is None:
        return python_tools.info(name)

    async with connection.open_to_list(location, servers.secrets) as opened:
        return describe(location, opened)


def check_params(info: ToolInfo, params: JsonObject, hide: Callable[[str], str] = str) -> None:
    """Raise `InvalidInput` if the params do not match the schema, or if the schema is not usable.

    ``hide`` replaces the secrets of the params in the message.
    """
    if wrong := schemas.mismatch(info, params, hide):
        raise InvalidInput("params", wrong)


async def list_tools(servers: ToolServers) -> tuple[list[ToolInfo], dict[str, str]]:
    """Return all usable tools, sorted by name, and the problems.

    The problems map the name of each server, Python tool or plugin that cannot be used to the
    reason.
    """
    found: list[ToolInfo] = []
    problems: dict[str, str] = {}
    for name in python_tools.names():
        try:
            found.append(python_tools.info(name))
        except InvalidInput as error:
            problems[name] = str(error)
    problems |= {
        module: _not_imported(module, why) for module, why in registry.failed_plugins().items()
    }
    server_names = await servers.names()
    answers = await asyncio.gather(
        *(list_server_tools(name, servers) for name in server_names), return_exceptions=True
    )
    for name, answer in zip(server_names, answers, strict=True):
        match answer:
            case list():
                found += answer
            case InvalidInput() | ToolUnreachable():
                problems[name] = str(answer)
            case _:
                raise answer
    return sorted(found, key=lambda each: each.name), problems


async def list_server_tools(name: str, servers: ToolServers) -> list[ToolInfo]:
    """Return the tools of a saved server, sorted by name.

    Raise `UnknownName`, `InvalidInput` and `ToolUnreachable`.
    """
    server = await servers.read(name)
    location = ToolLocation(name, "", name, server.settings, Guard.from_settings(Rule.OPERATOR))
    async with connection.open_to_list(location, servers.secrets) as opened:
        return [_info(f"{name}.{tool}", name, opened.tools[tool]) for tool in sorted(opened.tools)]


async def locate(name: str, servers: ToolServers, guard: Guard) -> ToolLocation | None:
    """Return the location of the tool; None for a Python tool.

    Connect to no server except Prefect. Raise `InvalidInput` (`UnknownName` with the nearest names,
    `OutgoingRefused`).
    """
    if is_address(name):
        return _at_address(name, guard)
    is_python = name in python_tools.names()
    server, dot, tool = name.partition(".")
    if not dot:
        if is_python:
            return None
        raise await _unknown(name, servers)
    saved = server in await servers.names()
    if is_python and saved:
        raise InvalidInput(
            "tool",
            f'"{name}" is ambiguous: it is a Python tool, and "{server}" is a saved server',
            "save the server under another name",
        )
    if is_python:
        return None
    if not saved or not tool:
        raise await _unknown(name, servers)
    settings = (await servers.read(server)).settings
    return ToolLocation(name, tool, server, settings, guard.for_operator())


def describe(where: ToolLocation, there: Connection) -> ToolInfo:
    """Return the tool as its server describes it. Raise `UnknownName` with the nearest names."""
    tool = there.tools.get(where.tool)
    if tool is None:
        prefix = where.name.removesuffix(where.tool)
        raise _none_of_that_name(where.name, [prefix + each for each in there.tools])
    return _info(where.name, where.source, tool)


def _info(name: str, source: str, tool: Any) -> ToolInfo:
    return ToolInfo(name, tool.description, tool.schema, source)


def _at_address(name: str, guard: Guard) -> ToolLocation:
    url, _, tool = name.partition("#")
    if not tool:
        raise InvalidInput("tool", "names a server without a tool", "use https://host/path#tool")
    if "{{" in url:
        raise InvalidInput(
            "tool",
            "contains a secret in its URL",
            "save the server with `daybook tools add` and put the secret in a header",
        )
    guard.check(url)
    return ToolLocation(name, unquote(tool), url, ToolServerSettings(url=url), guard)


async def _unknown(name: str, servers: ToolServers) -> InvalidInput:
    server, dot, _ = name.partition(".")
    saved = await servers.names()
    if dot and server in saved:
        return InvalidInput("tool", f'"{name}" names a server without a tool', f"use {server}.tool")
    return _none_of_that_name(name, [*python_tools.names(), *(f"{each}.…" for each in saved)])


def _none_of_that_name(name: str, known: Iterable[str]) -> UnknownName:
    names = list(known)
    if len(names) > MAX_SUGGESTIONS:
        names = difflib.get_close_matches(name, names, n=MAX_SUGGESTIONS, cutoff=0.4) or names
    more = ["…"] if len(names) > MAX_SUGGESTIONS else []
    broken = "; ".join(_not_imported(*each) for each in registry.failed_plugins().items())
    return UnknownName("tool", name, [*names[:MAX_SUGGESTIONS], *more], broken)


def _not_imported(module: str, why: str) -> str:
    return f"the plugin {module} cannot be imported: {why}"
