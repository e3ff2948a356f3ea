"""Configuration files for MCP clients, without secrets, and the commands for tokens."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from daybook.errors import InvalidInput
from daybook.home import Home
from daybook.mcp import clients
from tests.commands import Daybook

URL = "http://127.0.0.1:4281/mcp"


def entry(name: str, text: str) -> Any:
    if name == "codex":
        return tomllib.loads(text)["mcp_servers"]["daybook"]
    keys = {"vscode": "servers", "opencode": "mcp", "zed": "context_servers"}
    return json.loads(text)[keys.get(name, "mcpServers")]["daybook"]


@pytest.mark.parametrize("name", clients.CLIENTS)
def test_the_stdio_config_of_a_client_starts_daybook_with_its_home(
    name: str, daybook_home: Home
) -> None:
    found = entry(name, clients.stdio_config(name, ["--owner", "agent:cleo"]))
    command = found["command"]
    words = command if isinstance(command, list) else [command, *found["args"]]
    assert Path(words[0]).is_absolute()
    assert Path(words[0]).exists()
    assert words[-3:] == ["mcp", "--owner", "agent:cleo"]
    variables = found.get("env", found.get("environment"))
    assert variables["DAYBOOK_HOME"] == str(daybook_home.path)


@pytest.mark.parametrize(
    ("name", "key", "token"),
    [
        ("claude-code", "url", "Bearer ${DAYBOOK_MCP_TOKEN}"),
        ("cursor", "url", "Bearer ${env:DAYBOOK_MCP_TOKEN}"),
        ("gemini-cli", "httpUrl", "Bearer ${DAYBOOK_MCP_TOKEN}"),
        ("opencode", "url", "Bearer {env:DAYBOOK_MCP_TOKEN}"),
        ("vscode", "url", "Bearer ${input:daybook-token}"),
        ("windsurf", "serverUrl", "Bearer ${env:DAYBOOK_MCP_TOKEN}"),
    ],
)
def test_the_http_config_of_a_client_has_the_url_and_refers_to_the_token(
    name: str, key: str, token: str
) -> None:
    found = entry(name, clients.http_config(name, URL))
    assert found[key] == URL
    assert found["headers"] == {"Authorization": token}


@pytest.mark.parametrize(("name", "has_hint"), [("cursor", True), ("vscode", False)])
def test_only_a_client_that_reads_the_token_variable_gets_the_hint_to_set_it(
    daybook: Daybook, daybook_home: Home, name: str, has_hint: bool
) -> None:
    result = daybook("mcp", "--http", "--print-config", name)
    assert ("set DAYBOOK_MCP_TOKEN to the token" in result.err) is has_hint


def test_the_http_config_of_codex_names_the_token_variable() -> None:
    found = entry("codex", clients.http_config("codex", URL))
    assert found == {"url": URL, "bearer_token_env_var": "DAYBOOK_MCP_TOKEN"}


def test_a_client_that_cannot_refer_to_a_token_has_no_http_config() -> None:
    with pytest.raises(InvalidInput, match="claude-desktop cannot refer to a token"):
        clients.http_config("claude-desktop", URL)


def test_print_config_leaves_out_variables_that_may_be_secret(
    daybook: Daybook, daybook_home: Home, monkeypatch: Any
) -> None:
    secret = "postgresql://daybook:hunter2@db/daybook"
    monkeypatch.setenv("DAYBOOK_LEDGER_URL", secret)
    monkeypatch.setenv("PREFECT_API_KEY", "pnu_hunter2")
    result = daybook("mcp", "--print-config", "cursor")
    assert result.code == 0
    assert "hunter2" not in result.out + result.err
    assert "DAYBOOK_LEDGER_URL is left out because it may be secret" in result.err
    assert "PREFECT_API_KEY is left out" in result.err
    assert entry("cursor", result.out)["args"][-1] == "mcp"


def test_a_user_id_may_start_with_a_dash(daybook: Daybook, daybook_home: Home) -> None:
    result = daybook("mcp", "--print-config", "cursor", "--user-id=-5")
    assert entry("cursor", result.out)["args"][-1] == "--user-id=-5"


def test_an_unknown_client_is_refused_with_a_list_of_the_known_ones(daybook: Daybook) -> None:
    result = daybook("mcp", "--print-config", "emacs")
    assert result.code == 2
    assert 'unknown client "emacs" (known: claude-code, claude-desktop, codex' in result.err


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (["--owner", "prefect"], "--owner: 'prefect' is not valid (use user, plugin or agent:"),
        (
            ["--owner", "agent:a:b"],
            "--owner: 'agent:a:b' is not valid (use an agent name without a colon",
        ),
        (["--user-id", "a\nb"], "--user-id: is not valid (use one line of at most 100"),
        (["--user-id", "x" * 101], "--user-id: is not valid"),
        (
            ["--http", "--owner", "agent:a"],
            "--owner: does not apply to --http, where each token has its own",
        ),
        (["--port", "80"], "--port: applies only to HTTP (add --http)"),
        (["--http", "--port", "70000"], "--port: 70000 is out of range (use 1 to 65535)"),
    ],
)
def test_an_invalid_option_or_combination_is_refused(
    daybook: Daybook, daybook_home: Home, typed: list[str], expected: str
) -> None:
    result = daybook("mcp", *typed)
    assert result.code == 2
    assert expected in result.err
    assert result.out == ""


def test_tokens_are_made_listed_and_removed(daybook: Daybook, daybook_home: Home) -> None:
    assert daybook("tokens", "list").err.startswith("There are no tokens")
    made = daybook("tokens", "add", "--owner", "agent:cleo", "--user-id", "u-7", "--json").json
    assert made["token"].startswith("db_")
    assert len(made["token"]) == 46
    again = daybook("tokens", "add", "--owner", "agent:cleo")
    assert again.out.startswith("db_")
    assert again.out.count("\n") == 1
    found = daybook("tokens", "list", "--json").json
    assert [each["name"] for each in found] == ["agent:cleo", "agent:cleo-2"]
    assert found[0]["user_id"] == "u-7"
    shown = daybook("tokens", "list")
    assert made["token"] not in shown.out
    assert shown.out.splitlines()[1].split()[:3] == ["agent:cleo", "agent:cleo", "u-7"]
    assert daybook("tokens", "remove", "agent:cleo").code == 0
    assert [each["name"] for each in daybook("tokens", "list", "--json").json] == ["agent:cleo-2"]


@pytest.mark.parametrize(
    ("typed", "expected", "code"),
    [
        (["add", "--owner", "cleo"], "--owner: 'cleo' is not valid (use user, plugin", 2),
        (["add", "--owner", "agent:a", "--name", " "], "--name: is blank", 2),
        (["add", "--owner", "agent:a", "--user-id", "a\nb"], "--user-id: is not valid", 2),
        (["remove", "nobody"], 'token "nobody" not found', 3),
    ],
)
def test_an_invalid_tokens_command_is_refused_and_adds_no_token(
    daybook: Daybook, daybook_home: Home, typed: list[str], expected: str, code: int
) -> None:
    result = daybook("tokens", *typed)
    assert result.code == code
    assert expected in result.err
    assert daybook("tokens", "list", "--json").json == []


def test_a_taken_token_name_is_refused(daybook: Daybook, daybook_home: Home) -> None:
    assert daybook("tokens", "add", "--owner", "user", "--name", "desk").code == 0
    result = daybook("tokens", "add", "--owner", "user", "--name", "desk")
    assert result.code == 2
    assert '--name: "desk" is taken' in result.err
