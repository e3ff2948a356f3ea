"""The table of known tool servers: each row is valid, and says what it needs."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

import pytest

from daybook.errors import InvalidInput
from daybook.http import secrets
from daybook.processes.environment import DEFAULT_NAMES
from daybook.tools import server_presets
from daybook.tools.server_presets import PRESETS
from daybook.tools.server_settings import ToolServerSettings
from tests import rows

FOLDER = {"command": ["/home/ana/project"]}

WRITES = {
    "github": (
        "issue_write",
        "create_branch",
        "actions_run_trigger",
        "mark_all_notifications_read",
    ),
    "git": ("git_commit", "git_add", "git_reset", "git_create_branch", "git_checkout"),
    "filesystem": ("write_file", "edit_file", "create_directory", "move_file"),
    "memory": ("create_entities", "add_observations", "delete_relations"),
    "playwright": ("browser_click", "browser_navigate", "browser_evaluate"),
    "linear": ("create_issue", "update_issue", "create_comment"),
    "notion": ("API-post-page", "API-patch-page", "API-delete-a-block", "API-create-a-comment"),
    "slack": ("conversations_add_message", "conversations_mark", "reactions_add"),
    "sentry": ("update_issue", "create_team", "execute_sentry_tool", "analyze_issue_with_seer"),
    "postgres": ("execute_sql", "get_query_plan"),
    "google-workspace": ("send_gmail_message", "manage_event", "create_doc", "modify_doc_text"),
}
"""Names of tools that change something, by preset. The other servers have none."""


def _settings(name: str, **fields: Any) -> ToolServerSettings:
    given = {**(FOLDER if PRESETS[name].needs_folder else {}), **fields}
    return ToolServerSettings.model_validate(server_presets.apply(name, given))


def test_the_well_known_servers_have_presets() -> None:
    assert set(PRESETS) == {
        *("github", "git", "fetch", "filesystem", "time", "memory", "playwright", "brave-search"),
        *("linear", "notion", "slack", "sentry", "postgres", "google-workspace"),
    }


def test_each_preset_has_valid_settings_and_says_where_its_secret_is_from() -> None:
    for (name, preset), row in rows.each(PRESETS.items()):
        with row:
            settings = _settings(name)
            assert settings.read_only == list(preset.read_only)
            named = secrets.referenced_names(list(settings.headers.values()))
            assert named == ({name} if preset.url else set())
            assert bool(preset.source) == bool(preset.url or preset.environment)
            assert settings.environment == [*DEFAULT_NAMES, *preset.environment]
            assert settings.command[:1] in ([], ["npx"], ["uvx"])


def test_no_two_presets_are_the_same_server() -> None:
    servers = [(each.command, each.url) for each in PRESETS.values()]
    assert len(set(servers)) == len(servers)


def test_no_pattern_matches_a_tool_that_changes_something() -> None:
    for (name, tools), row in rows.each(WRITES.items()):
        with row:
            patterns = PRESETS[name].read_only
            assert not [t for t in tools for each in patterns if fnmatchcase(t, each)]


def test_the_users_settings_are_added_to_those_of_the_preset() -> None:
    settings = _settings(
        "slack", command=["--log", "x"], environment=["PATH", "SLACK_MCP_TOKEN"], read_only=["me"]
    )
    assert settings.command[-2:] == ["--log", "x"]
    assert settings.command[:-2] == list(PRESETS["slack"].command)
    assert settings.environment == ["PATH", "SLACK_MCP_TOKEN", "SLACK_MCP_XOXP_TOKEN"]
    assert settings.read_only == [*PRESETS["slack"].read_only, "me"]
    github = _settings("github", url="https://git.example.org/mcp", headers={"X-MCP-Readonly": "1"})
    assert github.url == "https://git.example.org/mcp"
    assert github.headers == {
        "Authorization": "Bearer {{secret:github}}",
        "X-MCP-Readonly": "1",
    }


@pytest.mark.parametrize(
    ("name", "fields", "expected"),
    [
        ("gitlab", {}, 'unknown "gitlab" (use one of: github, git, fetch'),
        ("git", {}, "git needs the absolute path of a folder (append it"),
        ("filesystem", {"command": ["."]}, "filesystem needs the absolute path of a folder"),
        ("linear", {"environment": ["HOME"]}, "applies only to a program, but linear is a URL"),
    ],
)
def test_what_a_preset_cannot_use_is_refused(
    name: str, fields: dict[str, Any], expected: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        server_presets.apply(name, fields)
    assert expected in str(refused.value)


@pytest.mark.parametrize("name", ["github", "time"])
def test_a_preset_has_either_a_program_or_a_url(name: str) -> None:
    with pytest.raises(ValueError, match="set either command or url, not both"):
        _settings(name, command=["x"], url="https://a.example/mcp")


def test_a_blank_pattern_is_refused() -> None:
    with pytest.raises(ValueError, match="contains a blank name"):
        _settings("time", read_only=[" "])


def test_a_missing_secret_is_noted_with_the_command_that_stores_it() -> None:
    url = _settings("github").url
    (note,) = server_presets.missing("github", url, ["gitlab"], {})
    assert note == (
        "It needs a secret, an access token from "
        "https://github.com/settings/personal-access-tokens/new: "
        "daybook secrets add github --host api.githubcopilot.com < token.txt"
    )
    assert server_presets.missing("github", url, ["github"], {}) == []
    (note,) = server_presets.missing("sentry", "https://sentry.example.org:8443/mcp", [], {})
    assert note.endswith("daybook secrets add sentry --host sentry.example.org:8443 < token.txt")


def test_missing_variables_are_noted() -> None:
    present = {"POSTGRES_HOST": "db", "POSTGRES_USER": "", "POSTGRES_DATABASE": "shop"}
    (note,) = server_presets.missing("postgres", "", [], present)
    assert note.endswith(": set POSTGRES_USER, POSTGRES_PASSWORD in the worker's environment")
    assert server_presets.missing("memory", "", [], {"MEMORY_FILE_PATH": "/m.jsonl"}) == []
    assert server_presets.missing("time", "", [], {}) == []
