"""Table of the presets of tool servers: known MCP servers, what they need, and what only reads.

To add a preset, add a row to `PRESETS`. `tests/e2e/test_tool_presets.py` starts its program, so add
the variables that the program needs there.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from daybook.errors import InvalidInput
from daybook.processes.environment import DEFAULT_NAMES


@dataclass(frozen=True)
class ServerPreset:
    """A known MCP server: a program with its ``command``, or a server at a ``url``.

    A program gets the variables ``environment`` of the worker's environment. A server at a URL gets
    the secret with the name of the preset, after the word ``scheme`` in the header `Authorization`.
    ``source`` says what these are, and where the user gets them. If ``needs_folder``, the user has
    to append the path of a folder to the command. ``read_only`` are patterns of the tools that only
    read.
    """

    read_only: tuple[str, ...]
    command: tuple[str, ...] = ()
    needs_folder: bool = False
    environment: tuple[str, ...] = ()
    url: str = ""
    scheme: str = "Bearer"
    source: str = ""


PRESETS = {
    "github": ServerPreset(
        url="https://api.githubcopilot.com/mcp/",
        source="an access token from https://github.com/settings/personal-access-tokens/new",
        read_only=(
            *("get_*", "list_*", "search_*", "issue_read", "issue_dependency_read"),
            *("pull_request_read", "actions_get", "actions_list", "projects_get", "projects_list"),
        ),
    ),
    "git": ServerPreset(
        command=("uvx", "mcp-server-git", "--repository"),
        needs_folder=True,
        read_only=("git_status", "git_diff*", "git_log", "git_show", "git_branch"),
    ),
    "fetch": ServerPreset(
        command=("uvx", "mcp-server-fetch"),
        read_only=("fetch",),
    ),
    "filesystem": ServerPreset(
        command=("npx", "-y", "@modelcontextprotocol/server-filesystem"),
        needs_folder=True,
        read_only=("read_*", "list_*", "directory_tree", "search_files", "get_file_info"),
    ),
    "time": ServerPreset(
        command=("uvx", "mcp-server-time"),
        read_only=("get_current_time", "convert_time"),
    ),
    "memory": ServerPreset(
        command=("npx", "-y", "@modelcontextprotocol/server-memory"),
        environment=("MEMORY_FILE_PATH",),
        source="the path of the file for the memory",
        read_only=("read_graph", "search_nodes", "open_nodes"),
    ),
    "playwright": ServerPreset(
        # Without --isolated, two runs at the same time would need the same profile.
        command=("npx", "-y", "@playwright/mcp@latest", "--headless", "--isolated"),
        read_only=(
            *("browser_snapshot", "browser_take_screenshot", "browser_find"),
            *("browser_console_messages", "browser_network_request*"),
        ),
    ),
    "brave-search": ServerPreset(
        command=("npx", "-y", "@brave/brave-search-mcp-server", "--transport", "stdio"),
        environment=("BRAVE_API_KEY",),
        source="an API key from https://api-dashboard.search.brave.com/app/keys",
        read_only=("brave_*",),
    ),
    "linear": ServerPreset(
        url="https://mcp.linear.app/mcp",
        source="a personal API key from https://linear.app/settings/account/security",
        read_only=("get_*", "list_*"),
    ),
    "notion": ServerPreset(
        command=("npx", "-y", "@notionhq/notion-mcp-server"),
        environment=("NOTION_TOKEN",),
        source="the secret of an internal integration from "
        "https://www.notion.so/profile/integrations",
        read_only=(
            *("API-get-*", "API-list-*", "API-retrieve-*"),
            *("API-post-search", "API-query-data-source"),
        ),
    ),
    "slack": ServerPreset(
        command=("npx", "-y", "slack-mcp-server@latest", "--transport", "stdio"),
        environment=("SLACK_MCP_XOXP_TOKEN",),
        source="the user OAuth token of an app from https://api.slack.com/apps",
        read_only=(
            *("conversations_history", "conversations_replies", "conversations_search_messages"),
            *("conversations_unreads", "channels_list", "users_search", "usergroups_list"),
        ),
    ),
    "sentry": ServerPreset(
        url="https://mcp.sentry.dev/mcp",
        scheme="Sentry-Bearer",
        source="a personal token from https://sentry.io/settings/account/api/auth-tokens/",
        read_only=("find_*", "get_*", "search_*", "whoami"),
    ),
    "postgres": ServerPreset(
        command=("npx", "-y", "@toolbox-sdk/server", "--prebuilt", "postgres", "--stdio"),
        environment=("POSTGRES_HOST", "POSTGRES_DATABASE", "POSTGRES_USER", "POSTGRES_PASSWORD"),
        source="the address of the database, and a role with the rights that the tools may use",
        read_only=(
            *("list_*", "get_column_cardinality", "database_overview"),
            *("long_running_transactions", "replication_stats"),
        ),
    ),
    "google-workspace": ServerPreset(
        command=("uvx", "workspace-mcp", "--tool-tier", "core"),
        # The only one of its ways to log in that needs no browser.
        environment=("GOOGLE_SERVICE_ACCOUNT_KEY_FILE", "USER_GOOGLE_EMAIL"),
        source="the key file of a service account with domain-wide delegation from "
        "https://console.cloud.google.com/iam-admin/serviceaccounts, and its user's address",
        read_only=("get_*", "list_*", "read_*", "search_*"),
    ),
}
"""All presets, by their names."""


def apply(name: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a tool server: those of the preset, changed by ``fields``.

    The ``command`` in ``fields`` is a list of arguments to append to the preset's command. Raise
    `InvalidInput` for an unknown ``name`` of a preset, and if the path of its folder is missing.
    """
    preset, arguments = _preset(name), fields.get("command", ())
    read_only = list(dict.fromkeys([*preset.read_only, *fields.get("read_only", ())]))
    merged = {**fields, "read_only": read_only}
    if preset.url:
        if "environment" in fields:
            raise InvalidInput("environment", f"applies only to a program, but {name} is a URL")
        secret = {"Authorization": f"{preset.scheme} {{{{secret:{name}}}}}"}
        return {"url": preset.url, **merged, "headers": {**secret, **fields.get("headers", {})}}
    if preset.needs_folder and not (arguments and arguments[0].startswith("/")):
        raise _no_folder(name, "arguments", "append it, such as -- ~/project")
    names = fields.get("environment", DEFAULT_NAMES)
    return {
        **merged,
        "command": [*preset.command, *arguments],
        "environment": list(dict.fromkeys([*names, *preset.environment])),
    }


def form_settings(name: str) -> dict[str, Any]:
    """Return the settings with which a form of the preset starts, without the path of its folder.

    Raise `InvalidInput` for an unknown ``name``.
    """
    preset = _preset(name)
    settings = apply(name, {"command": ["/"]} if preset.needs_folder else {})
    return settings | {"command": list(preset.command)}


def check_folder(name: str, settings: Mapping[str, Any]) -> None:
    """Raise `InvalidInput` if the path of the preset's folder is missing in the command."""
    preset, command = _preset(name), tuple(settings.get("command", ()))
    if preset.needs_folder and command == preset.command:
        raise _no_folder(name, "command", "append it in a line of its own")


def _preset(name: str) -> ServerPreset:
    if name not in PRESETS:
        raise InvalidInput("preset", f'unknown "{name}"', f"use one of: {', '.join(PRESETS)}")
    return PRESETS[name]


def _no_folder(name: str, field: str, hint: str) -> InvalidInput:
    return InvalidInput(field, f"{name} needs the absolute path of a folder", hint)


def missing(
    name: str, url: str, stored_secrets: Collection[str], variables: Mapping[str, str]
) -> list[str]:
    """Return notes about what a server needs that is not there: its secret, or some variables.

    ``url`` is the server's, perhaps another than that of the preset.
    """
    preset = PRESETS[name]
    if url:
        command = f"daybook secrets add {name} --host {urlsplit(url).netloc} < token.txt"
        is_stored = name in stored_secrets
        return [] if is_stored else [f"It needs a secret, {preset.source}: {command}"]
    unset = ", ".join(each for each in preset.environment if not variables.get(each))
    return [f"It needs {preset.source}: set {unset} in the worker's environment"] if unset else []
