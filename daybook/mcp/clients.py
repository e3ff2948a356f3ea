"""Configurations with which common MCP clients use this server, as JSON or TOML for their files.

A configuration never contains a token. It names the environment variable with the token, or makes
the client ask its user for the token.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daybook.errors import InvalidInput
from daybook.json_text import JsonObject

TOKEN_VARIABLE = "DAYBOOK_MCP_TOKEN"
"""The environment variable from which clients read the token."""

_PASSED_VARIABLES = ("DAYBOOK_HOME", "PREFECT_API_URL")
"""Variables without secrets.

The configuration passes them to the server if this process has them.
"""

_SECRET_VARIABLES = ("DAYBOOK_LEDGER_URL", "PREFECT_API_KEY", "PREFECT_API_AUTH_STRING")
"""Variables that may contain a secret, so the configuration omits them.

The user has to add them at the place where the client stores secrets.
"""

RenderConfig = Callable[[Mapping[str, Any]], str]


@dataclass(frozen=True)
class McpClient:
    """A client: its configuration file, and the format of a server's entry in the file.

    ``key`` is the file's key for its servers; it is used only if ``render`` is None. ``url_key`` is
    the key for a server's URL. ``header`` is the text by which the file refers to the token; it is
    empty if the file cannot refer to a token. ``render`` returns the text of an entry; None means
    plain JSON.
    """

    file: str
    key: str = "mcpServers"
    url_key: str = "url"
    header: str = ""
    render: RenderConfig | None = None


def _json(key: str, entry: Mapping[str, Any]) -> str:
    return json.dumps({key: {"daybook": entry}}, indent=2)


def _vscode(entry: Mapping[str, Any]) -> str:
    if "url" not in entry:
        return _json("servers", {"type": "stdio", **entry})
    token_input = {
        "type": "promptString",
        "id": "daybook-token",
        "description": "A token from `daybook tokens add`",
        "password": True,
    }
    servers = {"daybook": {"type": "http", **entry}}
    return json.dumps({"inputs": [token_input], "servers": servers}, indent=2)


def _codex(entry: Mapping[str, Any]) -> str:
    lines = ["[mcp_servers.daybook]"]
    if "url" in entry:
        lines += [f"url = {_text(entry['url'])}", f"bearer_token_env_var = {_text(TOKEN_VARIABLE)}"]
    else:
        arguments = ", ".join(map(_text, entry["args"]))
        lines += [f"command = {_text(entry['command'])}", f"args = [{arguments}]"]
        if entry.get("env"):
            pairs = ", ".join(f"{name} = {_text(value)}" for name, value in entry["env"].items())
            lines.append(f"env = {{ {pairs} }}")
    return "\n".join(lines)


def _opencode(entry: Mapping[str, Any]) -> str:
    if "url" in entry:
        return _json("mcp", {"type": "remote", **entry})
    local = {"type": "local", "command": [entry["command"], *entry["args"]]}
    return _json("mcp", local | ({"environment": entry["env"]} if entry.get("env") else {}))


def _text(value: str) -> str:
    # A JSON string is also a valid basic string in TOML.
    return json.dumps(value, ensure_ascii=False)


CLIENTS = {
    "claude-code": McpClient(".mcp.json in the project", header=f"Bearer ${{{TOKEN_VARIABLE}}}"),
    "claude-desktop": McpClient("claude_desktop_config.json (Settings, Developer, Edit Config)"),
    "codex": McpClient("~/.codex/config.toml", header=TOKEN_VARIABLE, render=_codex),
    "cursor": McpClient("~/.cursor/mcp.json", header=f"Bearer ${{env:{TOKEN_VARIABLE}}}"),
    "gemini-cli": McpClient(
        "~/.gemini/settings.json", url_key="httpUrl", header=f"Bearer ${{{TOKEN_VARIABLE}}}"
    ),
    "opencode": McpClient(
        "opencode.json", header=f"Bearer {{env:{TOKEN_VARIABLE}}}", render=_opencode
    ),
    "vscode": McpClient(".vscode/mcp.json", header="Bearer ${input:daybook-token}", render=_vscode),
    "windsurf": McpClient(
        "~/.codeium/windsurf/mcp_config.json",
        url_key="serverUrl",
        header=f"Bearer ${{env:{TOKEN_VARIABLE}}}",
    ),
    "zed": McpClient("settings.json of Zed", key="context_servers"),
}
"""The clients by name. `daybook mcp --print-config` accepts these names."""


def find(name: str) -> McpClient:
    """Return the client with this name. Raise `InvalidInput` for an unknown name."""
    if name not in CLIENTS:
        raise InvalidInput(
            "print_config", f'unknown client "{name}"', f"known: {', '.join(CLIENTS)}"
        )
    return CLIENTS[name]


def stdio_config(name: str, arguments: list[str]) -> str:
    """Return the configuration with which the client starts `daybook mcp` with these arguments.

    Raise `InvalidInput` for an unknown client.
    """
    # Use an absolute path, because a client started from a desktop may not have the command on its
    # PATH.
    path = Path(sys.executable).with_name("daybook")
    command, *first = [str(path)] if path.exists() else [sys.executable, "-P", "-m", "daybook"]
    entry: JsonObject = {"command": command, "args": [*first, "mcp", *arguments]}
    if variables := {each: os.environ[each] for each in _PASSED_VARIABLES if os.environ.get(each)}:
        entry["env"] = variables
    return _rendered(name, entry)


def http_config(name: str, url: str) -> str:
    """Return the configuration with which the client connects to ``url``.

    Raise `InvalidInput` for an unknown client, and for a client whose file cannot refer to a token.
    """
    client = find(name)
    if not client.header:
        raise InvalidInput("print_config", f"{name} cannot refer to a token", "leave out --http")
    entry: JsonObject = {client.url_key: url}
    if client.render is not _codex:
        entry["headers"] = {"Authorization": client.header}
    if name == "claude-code":
        entry = {"type": "http", **entry}
    return _rendered(name, entry)


def omitted_variables() -> list[str]:
    """Return the variables of this process that the configuration omits as possible secrets."""
    return [each for each in _SECRET_VARIABLES if os.environ.get(each)]


def _rendered(name: str, entry: Mapping[str, Any]) -> str:
    client = find(name)
    return client.render(entry) if client.render is not None else _json(client.key, entry)
