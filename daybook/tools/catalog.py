"""Which tool a name means, and what there is.

======================  ========================================================
``reindex``             the Python tool of exactly that name, also with dots
``search.reindex``      the tool ``reindex`` of the saved server ``search``
``https://host/p#t``    the tool ``t`` of the MCP server at that address
======================  ========================================================

A name that a Python tool and a saved server both answer to is refused. What a saved server reaches
is the operator's choice, whoever made the job; an address in the job is judged by the job's rule.
"""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from daybook import registry
from daybook.errors import InvalidInput, ToolUnreachable, UnknownName
from daybook.http.guard import Guard
from daybook.jobs.actions import is_address
from daybook.tools import python_tools, schemas
from daybook.tools.base import ToolInfo
from daybook.tools.server_blocks import ToolServerSettings

if TYPE_CHECKING:
    from daybook.tools.base import Servers
    from daybook.tools.connection import Connection

MOST_SHOWN = 12
"""How many names are told to who wrote an unknown one."""


@dataclass(frozen=True)
class Place:
    """A tool of a server. ``name`` is what a job writes, ``source`` that of its `ToolInfo`."""

    name: str
    tool: str
    source: str
    settings: ToolServerSettings
    guard: Guard


async def find(name: str, servers: Servers, guard: Guard) -> ToolInfo:
    """The tool of that name, of a server as the server describes it now.

    Raises `InvalidInput` for ``tool``, `UnknownName` with the nearest names, `OutgoingRefused`, and
    `ToolUnreachable`.
    """
    where = await place(name, servers, guard)
    if where is None:
        return python_tools.info(name)
    from daybook.tools import connection

    async with connection.opened(where, servers.secrets) as there:
        return described(where, there)


def check_params(info: ToolInfo, params: dict[str, Any], hide: Callable[[str], str] = str) -> None:
    """Raise `InvalidInput` where the params do not fit the tool's schema, with the schema's words.

    ``hide`` takes out of these what the params hold of secrets.
    """
    if wrong := schemas.mismatch(info, params, hide):
        raise InvalidInput("params", wrong)


async def listed(servers: Servers) -> tuple[list[ToolInfo], dict[str, str]]:
    """Every tool by name, and why a server, or a Python tool, could not be asked, by its name."""
    found: list[ToolInfo] = []
    absent: dict[str, str] = {}
    for name in python_tools.names():
        try:
            found.append(python_tools.info(name))
        except InvalidInput as error:
            absent[name] = str(error)
    absent |= {
        module: _not_imported(module, why) for module, why in registry.failed_plugins().items()
    }
    asked = await servers.names()
    answered = await asyncio.gather(
        *(of_server(name, servers) for name in asked), return_exceptions=True
    )
    for name, answer in zip(asked, answered, strict=True):
        match answer:
            case list():
                found += answer
            case InvalidInput() | ToolUnreachable():
                absent[name] = str(answer)
            case _:
                raise answer
    return sorted(found, key=lambda each: each.name), absent


async def of_server(name: str, servers: Servers) -> list[ToolInfo]:
    """The tools of a saved server; raises `UnknownName`, `InvalidInput` and `ToolUnreachable`."""
    from daybook.http.guard import Rule
    from daybook.tools import connection

    server = await servers.read(name)
    where = Place(name, "", name, server.settings, Guard.here(Rule.OPERATOR))
    async with connection.opened(where, servers.secrets) as there:
        return [_info(f"{name}.{tool}", name, there.tools[tool]) for tool in sorted(there.tools)]


async def place(name: str, servers: Servers, guard: Guard) -> Place | None:
    """Where the tool of that name is; None for a Python tool. Connects to nothing but Prefect."""
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
            f'"{name}" is ambiguous: a Python tool has that name, and a saved server "{server}"',
            "save the server under another name",
        )
    if is_python:
        return None
    if not saved or not tool:
        raise await _unknown(name, servers)
    settings = (await servers.read(server)).settings
    return Place(name, tool, server, settings, guard.for_operator())


def described(where: Place, there: Connection) -> ToolInfo:
    """The tool as its server describes it; raises `UnknownName` with the nearest that it has."""
    found = there.tools.get(where.tool)
    if found is None:
        prefix = where.name.removesuffix(where.tool)
        raise _none_of_that_name(where.name, [prefix + each for each in there.tools])
    return _info(where.name, where.source, found)


def _info(name: str, source: str, tool: Any) -> ToolInfo:
    return ToolInfo(name, tool.description, tool.schema, source)


def _at_address(name: str, guard: Guard) -> Place:
    url, _, tool = name.partition("#")
    if not tool:
        raise InvalidInput("tool", "names an address and no tool of it", "https://host/path#tool")
    if "{{" in url:
        raise InvalidInput(
            "tool", "a reference in an address", "save the server, with the secret in a header"
        )
    guard.check(url)
    return Place(name, unquote(tool), url, ToolServerSettings(url=url), guard)


async def _unknown(name: str, servers: Servers) -> InvalidInput:
    server, dot, _ = name.partition(".")
    saved = await servers.names()
    if dot and server in saved:
        return InvalidInput(
            "tool", f'"{name}" names no tool of the server', f"legal: {server}.tool"
        )
    return _none_of_that_name(name, [*python_tools.names(), *(f"{each}.…" for each in saved)])


def _none_of_that_name(name: str, known: Iterable[str]) -> UnknownName:
    names = list(known)
    if len(names) > MOST_SHOWN:
        names = difflib.get_close_matches(name, names, n=MOST_SHOWN, cutoff=0.4) or names
    more = ["…"] if len(names) > MOST_SHOWN else []
    broken = "; ".join(_not_imported(*each) for each in registry.failed_plugins().items())
    return UnknownName("tool", name, [*names[:MOST_SHOWN], *more], broken)


def _not_imported(module: str, why: str) -> str:
    return f"the plugin {module} cannot be imported: {why}"
