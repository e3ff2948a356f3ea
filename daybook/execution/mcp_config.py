"""MCP configuration for a program, with saved servers and Daybook's own server.

`daybook.agents.command` writes the configuration to a file, in the form that most clients read:
``{"mcpServers": {name: {"command", "args", "env"} or {"type", "url", "headers"}}}``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from daybook.agents import base
from daybook.agents.base import McpServers
from daybook.errors import InvalidInput, UnknownName
from daybook.execution import builtin_tools
from daybook.home import CLIENT_CREDENTIAL, current_home, home_path
from daybook.http import secrets as references
from daybook.http.guard import Guard, Rule
from daybook.http.secrets import FilledSecrets, SecretDestination
from daybook.json_text import JsonObject
from daybook.owners import Actor
from daybook.processes import environment
from daybook.tools.pool import PreloadedSecrets
from daybook.tools.server_blocks import ToolServer, ToolServers

_VARIABLE_PREFIXES = ("DAYBOOK_", "PREFECT_API_", "PREFECT_PROFILE", "PREFECT_HOME")
"""Prefixes of the variables with which Daybook's own server finds the same ledger and Prefect."""

_SECRET_VARIABLES = ("DAYBOOK_LEDGER_URL", "PREFECT_API_AUTH_STRING")
"""Variables that are secret, although their names do not show it."""

_EXCLUDED_VARIABLES = ("DAYBOOK_WEBHOOK_SECRET", "DAYBOOK_MCP_TOKEN")


@dataclass(frozen=True)
class McpConfiguration:
    """Servers of an agent, with their header secrets.

    ``own`` is True if Daybook's own server is among them.
    """

    servers: tuple[tuple[ToolServer, PreloadedSecrets], ...] = field(default=(), repr=False)
    own: bool = False


async def find(entries: Iterable[str], servers: ToolServers) -> McpConfiguration:
    """Look up the servers that ``entries`` name; leave out those of `program_folders`.

    Raise `UnknownName`, `InvalidInput`, and the errors of Prefect's client.
    """
    names = dict.fromkeys(each for each in entries if not base.is_folder_entry(each))
    if not names:
        return McpConfiguration()
    saved = await servers.names()
    selected = []
    for name in names:
        if name == base.OWN_TOOLS:
            continue
        if name not in saved and name in builtin_tools.words():
            hint = "leave it out, because the program has tools of its own"
            raise InvalidInput("tools", f'only a model agent can have "{name}"', hint)
        if name not in saved:
            raise UnknownName("tool server", name, [base.OWN_TOOLS, *saved])
        server = await servers.read(name)
        selected.append((server, await PreloadedSecrets.of(server, servers.secrets)))
    return McpConfiguration(tuple(selected), base.OWN_TOOLS in names)


async def build(configuration: McpConfiguration, actor: Actor) -> McpServers:
    """Build the configuration with its secrets; Daybook's own server acts for ``actor``.

    Raise `InvalidInput` for a secret that must not be sent to the server's address, and for an
    address that no job may reach.
    """
    filled = FilledSecrets()
    variables: dict[str, str] = {}
    entries: JsonObject = {}
    for server, secrets in configuration.servers:
        settings = server.settings
        if settings.command:
            given = environment.select(settings.environment)
            variables |= given
            entry = _program_entry(settings.command, given)
            entries[server.name] = entry | _working_directory(settings.work_dir)
        else:
            url = Guard.from_settings(Rule.OPERATOR).check(settings.url)
            destination = SecretDestination.of_url(url)
            headers = {
                name: await references.fill("headers", value, destination, secrets, filled)
                for name, value in settings.headers.items()
            }
            entries[server.name] = {"type": "http", "url": str(url), "headers": headers}
    if configuration.own:
        given = _own_variables(os.environ)
        variables |= given
        filled.values.update(given[name] for name in _SECRET_VARIABLES if name in given)
        options = ["--owner", actor.owner]
        options += [f"--user-id={actor.user_id}"] if actor.user_id else []  # may begin with -
        options += [f"--approve={entry}" for entry in actor.approve]
        entries[base.OWN_TOOLS] = _program_entry(
            [sys.executable, "-m", "daybook", "mcp", *options], given
        )
    return McpServers({"mcpServers": entries}, variables, frozenset(filled.values))


def _program_entry(command: list[str], variables: Mapping[str, str]) -> JsonObject:
    program, *arguments = command
    return {"command": os.path.expanduser(program), "args": arguments, "env": dict(variables)}


def _working_directory(work_dir: str) -> dict[str, str]:
    return {"cwd": os.path.expanduser(work_dir)} if work_dir else {}


def _own_variables(variables: Mapping[str, str]) -> dict[str, str]:
    ours = {
        name: value
        for name, value in variables.items()
        if name.startswith(_VARIABLE_PREFIXES) and name not in _EXCLUDED_VARIABLES
    }
    # The program can read the file, and Daybook's server finds the credential in the home itself.
    if (credential := ours.get(CLIENT_CREDENTIAL)) and credential == current_home().credential():
        del ours[CLIENT_CREDENTIAL]
    return {
        **environment.select(environment.DEFAULT_NAMES, variables),
        **ours,
        "DAYBOOK_HOME": str(home_path()),
    }
