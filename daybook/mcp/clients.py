"""What the common clients want to be told, to find this server: JSON or TOML for their files.

A token never stands in it: what is written names the variable that holds it, or asks for it.
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

TOKEN = "DAYBOOK_MCP_TOKEN"
"""The variable in which clients have a token."""

_PASSED = ("DAYBOOK_HOME", "PREFECT_API_URL")
"""Variables that a client has to pass on where they are set here, and that hold no secret."""

_NOT_PASSED = ("DAYBOOK_LEDGER_URL", "PREFECT_API_KEY", "PREFECT_API_AUTH_STRING")
"""Those that may hold one: a person puts them where the client keeps secrets."""

Made = Callable[[Mapping[str, Any]], str]


@dataclass(frozen=True)
class Client:
    """A client: the file that it reads, and how a server stands in there.

    ``header`` is how a file refers to the token; empty where a client has no way to.
    """

    file: str
    key: str = "mcpServers"
    header: str = ""
    made: Made | None = None


def _json(key: str, entry: Mapping[str, Any]) -> str:
    return json.dumps({key: {"daybook": entry}}, indent=2)


def _vscode(entry: Mapping[str, Any]) -> str:
    if "url" not in entry:
        return _json("servers", {"type": "stdio", **entry})
    asked = {
        "type": "promptString",
        "id": "daybook-token",
        "description": "A token of daybook tokens add",
        "password": True,
    }
    servers = {"daybook": {"type": "http", **entry}}
    return json.dumps({"inputs": [asked], "servers": servers}, indent=2)


def _codex(entry: Mapping[str, Any]) -> str:
    lines = ["[mcp_servers.daybook]"]
    if "url" in entry:
        lines += [f"url = {_text(entry['url'])}", f"bearer_token_env_var = {_text(TOKEN)}"]
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
    return json.dumps(value, ensure_ascii=False)  # a basic string of TOML is one of JSON


CLIENTS = {
    "claude-code": Client(".mcp.json in the project", header=f"Bearer ${{{TOKEN}}}"),
    "claude-desktop": Client("claude_desktop_config.json (Settings, Developer, Edit Config)"),
    "codex": Client("~/.codex/config.toml", header=TOKEN, made=_codex),
    "cursor": Client("~/.cursor/mcp.json", header=f"Bearer ${{env:{TOKEN}}}"),
    "gemini-cli": Client("~/.gemini/settings.json", header=f"Bearer ${{{TOKEN}}}"),
    "opencode": Client("opencode.json", header=f"Bearer {{env:{TOKEN}}}", made=_opencode),
    "vscode": Client(".vscode/mcp.json", header="Bearer ${input:daybook-token}", made=_vscode),
    "windsurf": Client("~/.codeium/windsurf/mcp_config.json", header=f"Bearer ${{env:{TOKEN}}}"),
    "zed": Client("settings.json of Zed", key="context_servers"),
}

_URL_KEY = {"gemini-cli": "httpUrl", "windsurf": "serverUrl"}


def find(name: str) -> Client:
    """The client of that name; raises `InvalidInput`."""
    if name not in CLIENTS:
        raise InvalidInput(
            "print_config", f'unknown client "{name}"', f"known: {', '.join(CLIENTS)}"
        )
    return CLIENTS[name]


def over_stdio(name: str, arguments: list[str]) -> str:
    """What the client's file holds to begin ``daybook mcp`` with these arguments."""
    command, *first = _command()
    entry: dict[str, Any] = {"command": command, "args": [*first, "mcp", *arguments]}
    if variables := {each: os.environ[each] for each in _PASSED if os.environ.get(each)}:
        entry["env"] = variables
    return _made(name, entry)


def over_http(name: str, url: str) -> str:
    """What the client's file holds to reach ``url`` with a token that it has from elsewhere."""
    client = find(name)
    if not client.header:
        raise InvalidInput("print_config", f"{name} has no place for a token", "leave out --http")
    entry: dict[str, Any] = {_URL_KEY.get(name, "url"): url}
    if client.made is not _codex:
        entry["headers"] = {"Authorization": client.header}
    if name == "claude-code":
        entry = {"type": "http", **entry}
    return _made(name, entry)


def left_out() -> list[str]:
    """The variables that are set here and that no file of a client should hold."""
    return [each for each in _NOT_PASSED if os.environ.get(each)]


def _made(name: str, entry: Mapping[str, Any]) -> str:
    client = find(name)
    return client.made(entry) if client.made is not None else _json(client.key, entry)


def _command() -> list[str]:
    """The program, whole: a client that was begun from a desktop has no path to look for it."""
    program = Path(sys.executable).with_name("daybook")
    return [str(program)] if program.exists() else [sys.executable, "-P", "-m", "daybook"]
