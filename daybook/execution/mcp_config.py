"""The MCP configuration of a program: saved servers as a whole, and Daybook itself.

It is what `daybook.agents.command` writes into a file for the program, in the form that most
clients read: ``{"mcpServers": {name: {"command", "args", "env"} or {"type", "url", "headers"}}}``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from daybook.agents import allowed
from daybook.agents.base import McpServers
from daybook.errors import UnknownName
from daybook.home import CLIENT_CREDENTIAL, here
from daybook.http import secrets as references
from daybook.http.guard import Guard, Rule
from daybook.http.secrets import Destination, Filled
from daybook.owners import Actor
from daybook.processes import environment
from daybook.settings import home_path
from daybook.tools.base import Server, Servers
from daybook.tools.pool import Read

_NEEDED = ("DAYBOOK_", "PREFECT_API_", "PREFECT_PROFILE", "PREFECT_HOME")
"""Beginnings of what Daybook's own server reads, to reach the same ledger and the same Prefect."""

_SECRET = ("DAYBOOK_LEDGER_URL", "PREFECT_API_AUTH_STRING")
"""Those whose names do not say that they are."""

_NOT_NEEDED = ("DAYBOOK_WEBHOOK_SECRET", "DAYBOOK_MCP_TOKEN")


@dataclass(frozen=True)
class Configuration:
    """The servers of an agent, with what their headers refer to; ``own``: Daybook is one."""

    servers: tuple[tuple[Server, Read], ...] = field(default=(), repr=False)
    own: bool = False


async def find(entries: Iterable[str], servers: Servers) -> Configuration:
    """What ``entries`` name. Raises `UnknownName`, `InvalidInput`, and what Prefect's client
    raises.
    """
    names = dict.fromkeys(entries)
    if not names:
        return Configuration()
    saved = await servers.names()
    found = []
    for name in names:
        if name == allowed.OWN:
            continue
        if name not in saved:
            raise UnknownName("tool server", name, [allowed.OWN, *saved])
        server = await servers.read(name)
        found.append((server, await Read.of(server, servers.secrets)))
    return Configuration(tuple(found), allowed.OWN in names)


async def made(configuration: Configuration, actor: Actor) -> McpServers:
    """The configuration with its secrets; Daybook's own server works for ``actor``.

    Raises `InvalidInput` for a secret that may not go where the server is.
    """
    filled = Filled()
    variables: dict[str, str] = {}
    entries: dict[str, Any] = {}
    for server, secrets in configuration.servers:
        settings = server.settings
        if settings.command:
            given = environment.allowed(settings.environment)
            variables |= given
            entry = _program(settings.command, given)
            entries[server.name] = entry | _in(settings.work_dir)
        else:
            url = Guard.here(Rule.OPERATOR).check(settings.url)
            where = Destination.of_url(url)
            headers = {
                name: await references.fill("headers", value, where, secrets, filled)
                for name, value in settings.headers.items()
            }
            entries[server.name] = {"type": "http", "url": str(url), "headers": headers}
    if configuration.own:
        given = _needed(os.environ)
        variables |= given
        filled.values.update(given[name] for name in _SECRET if name in given)
        whose = ["--owner", actor.owner]
        whose += [f"--user-id={actor.user_id}"] if actor.user_id else []  # which may begin with -
        entries[allowed.OWN] = _program([sys.executable, "-m", "daybook", "mcp", *whose], given)
    return McpServers({"mcpServers": entries}, variables, frozenset(filled.values))


def _program(command: list[str], variables: Mapping[str, str]) -> dict[str, Any]:
    program, *arguments = command
    return {"command": os.path.expanduser(program), "args": arguments, "env": dict(variables)}


def _in(work_dir: str) -> dict[str, str]:
    return {"cwd": os.path.expanduser(work_dir)} if work_dir else {}


def _needed(variables: Mapping[str, str]) -> dict[str, str]:
    ours = {
        name: value
        for name, value in variables.items()
        if name.startswith(_NEEDED) and name not in _NOT_NEEDED
    }
    # The program reads this file; Daybook's server finds the credential in the home by itself.
    if (sent := ours.get(CLIENT_CREDENTIAL)) and sent == here().credential():
        del ours[CLIENT_CREDENTIAL]
    return {
        **environment.allowed(environment.DEFAULT, variables),
        **ours,
        "DAYBOOK_HOME": str(home_path()),
    }
