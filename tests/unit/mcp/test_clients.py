"""What clients are told to find the server: files that they read, without a secret in them."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from daybook.errors import InvalidInput
from daybook.home import Home
from daybook.mcp import clients
from tests.unit.cli.conftest import Say, daybook

__all__ = ["daybook"]

URL = "http://127.0.0.1:4281/mcp"


def entry(name: str, text: str) -> Any:
    if name == "codex":
        return tomllib.loads(text)["mcp_servers"]["daybook"]
    keys = {"vscode": "servers", "opencode": "mcp", "zed": "context_servers"}
    return json.loads(text)[keys.get(name, "mcpServers")]["daybook"]


@pytest.mark.parametrize("name", clients.CLIENTS)
def test_a_client_begins_the_program_with_its_home(name: str, daybook_home: Home) -> None:
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
def test_a_client_reaches_the_address_with_a_token_from_elsewhere(
    name: str, key: str, token: str
) -> None:
    found = entry(name, clients.http_config(name, URL))
    assert found[key] == URL
    assert found["headers"] == {"Authorization": token}


def test_codex_has_the_token_in_a_variable() -> None:
    found = entry("codex", clients.http_config("codex", URL))
    assert found == {"url": URL, "bearer_token_env_var": "DAYBOOK_MCP_TOKEN"}


def test_a_client_without_a_place_for_a_token_is_refused_http() -> None:
    with pytest.raises(InvalidInput, match="claude-desktop cannot refer to a token"):
        clients.http_config("claude-desktop", URL)


def test_no_secret_is_printed(daybook: Say, daybook_home: Home, monkeypatch: Any) -> None:
    secret = "postgresql://daybook:hunter2@db/daybook"
    monkeypatch.setenv("DAYBOOK_LEDGER_URL", secret)
    monkeypatch.setenv("PREFECT_API_KEY", "pnu_hunter2")
    said = daybook("mcp", "--print-config", "cursor")
    assert said.code == 0
    assert "hunter2" not in said.out + said.err
    assert "DAYBOOK_LEDGER_URL is left out because it may be secret" in said.err
    assert "PREFECT_API_KEY is left out" in said.err
    assert entry("cursor", said.out)["args"][-1] == "mcp"


def test_a_person_may_begin_with_a_dash(daybook: Say, daybook_home: Home) -> None:
    said = daybook("mcp", "--print-config", "cursor", "--user-id=-5")
    assert entry("cursor", said.out)["args"][-1] == "--user-id=-5"


def test_an_unknown_client_is_refused_with_the_known_ones(daybook: Say) -> None:
    said = daybook("mcp", "--print-config", "emacs")
    assert said.code == 2
    assert 'unknown client "emacs" (known: claude-code, claude-desktop, codex' in said.err


@pytest.mark.parametrize(
    ("typed", "told"),
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
def test_what_does_not_go_together_is_refused(
    daybook: Say, daybook_home: Home, typed: list[str], told: str
) -> None:
    said = daybook("mcp", *typed)
    assert said.code == 2
    assert told in said.err
    assert said.out == ""


def test_tokens_are_made_listed_and_removed(daybook: Say, daybook_home: Home) -> None:
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
    ("typed", "told", "code"),
    [
        (["add", "--owner", "cleo"], "--owner: 'cleo' is not valid (use user, plugin", 2),
        (["add", "--owner", "agent:a", "--name", " "], "--name: is blank", 2),
        (["add", "--owner", "agent:a", "--user-id", "a\nb"], "--user-id: is not valid", 2),
        (["remove", "nobody"], 'token "nobody" not found', 3),
    ],
)
def test_a_token_that_cannot_be_is_refused(
    daybook: Say, daybook_home: Home, typed: list[str], told: str, code: int
) -> None:
    said = daybook("tokens", *typed)
    assert said.code == code
    assert told in said.err
    assert daybook("tokens", "list", "--json").json == []


def test_a_taken_name_is_refused(daybook: Say, daybook_home: Home) -> None:
    assert daybook("tokens", "add", "--owner", "user", "--name", "desk").code == 0
    said = daybook("tokens", "add", "--owner", "user", "--name", "desk")
    assert said.code == 2
    assert '--name: "desk" is taken' in said.err
