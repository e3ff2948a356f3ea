"""The MCP configuration that a program gets: servers, secrets and environment."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from daybook.errors import InvalidInput, UnknownName
from daybook.execution import mcp_config, program_folders
from daybook.home import Home
from daybook.http.secrets import Secret
from daybook.owners import Actor
from daybook.tools.server_blocks import ToolServer
from daybook.tools.server_settings import ToolServerSettings

ACTOR = Actor("agent:brief", "ana", "run")


class StoredSecrets:
    """Two saved tool servers, and a secret that is bound to a host."""

    def __init__(self, host: str = "search.example.org") -> None:
        self.secrets = self
        self._secret = Secret("key", "s3cr3t", (host,))
        headers = {"Authorization": "Bearer {{secret:key}}"}
        self._servers = {
            "files": ToolServerSettings(
                command=["~/bin/files", "--all"], environment=["FILES_TOKEN"], work_dir="~/docs"
            ),
            "search": ToolServerSettings(url="https://search.example.org/mcp", headers=headers),
        }

    async def names(self) -> list[str]:
        return sorted(self._servers)

    async def read(self, name: str) -> Any:
        return self._secret if name == "key" else ToolServer(name, self._servers[name])


async def test_the_configuration_contains_the_servers_with_their_secrets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FILES_TOKEN", "t0ken")
    monkeypatch.setenv("HOME", "/home/ana")
    made = await mcp_config.build(
        await mcp_config.find(["files", "search"], StoredSecrets()), ACTOR
    )
    assert made.config == {
        "mcpServers": {
            "files": {
                "command": "/home/ana/bin/files",
                "args": ["--all"],
                "env": {"FILES_TOKEN": "t0ken"},
                "cwd": "/home/ana/docs",
            },
            "search": {
                "type": "http",
                "url": "https://search.example.org/mcp",
                "headers": {"Authorization": "Bearer s3cr3t"},
            },
        }
    }
    assert made.variables == {"FILES_TOKEN": "t0ken"}
    assert made.secrets == {"s3cr3t"}
    assert "s3cr3t" not in repr(made)
    assert "t0ken" not in repr(made)


async def test_daybooks_server_acts_for_the_actor_on_the_same_ledger(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DAYBOOK_HOME", str(tmp_path))
    monkeypatch.setenv("DAYBOOK_LEDGER_URL", "postgresql://u:pw@h/d")
    monkeypatch.setenv("DAYBOOK_WEBHOOK_SECRET", "whsec_x")
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    monkeypatch.setenv("PREFECT_LOGGING_LEVEL", "DEBUG")
    actor = replace(ACTOR, approve=("answer",))
    made = await mcp_config.build(await mcp_config.find(["daybook"], StoredSecrets()), actor)
    (entry,) = made.config["mcpServers"].values()
    whose = ["--owner", "agent:brief", "--user-id=ana", "--approve=answer"]
    assert entry["command"] == sys.executable
    assert entry["args"] == ["-m", "daybook", "mcp", *whose]
    environment = {k: v for k, v in entry["env"].items() if k.startswith(("DAYBOOK", "PREFECT"))}
    assert environment.pop("PREFECT_API_URL") == "http://127.0.0.1:1/api"
    assert environment.pop("DAYBOOK_LEDGER_URL") == "postgresql://u:pw@h/d"
    assert environment.pop("DAYBOOK_HOME") == str(tmp_path)
    assert "DAYBOOK_WEBHOOK_SECRET" not in environment
    assert "PREFECT_LOGGING_LEVEL" not in environment
    sent = environment.pop(
        "PREFECT_API_AUTH_STRING"
    )  # for a Prefect server that Daybook does not run
    assert made.secrets == {"postgresql://u:pw@h/d", sent}


async def test_a_program_does_not_get_the_credential_of_daybook_ups_server(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Daybook's own MCP server, which the program starts, reads it from the home."""
    monkeypatch.setenv("DAYBOOK_HOME", str(tmp_path))
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", Home(tmp_path).ensure_credential())
    made = await mcp_config.build(await mcp_config.find(["daybook"], StoredSecrets()), ACTOR)
    assert "PREFECT_API_AUTH_STRING" not in str(made.config)
    assert "PREFECT_API_AUTH_STRING" not in made.variables


async def test_a_secret_is_refused_for_a_host_it_is_not_bound_to() -> None:
    found = await mcp_config.find(["search"], StoredSecrets("other.example.org"))
    with pytest.raises(InvalidInput, match="key"):
        await mcp_config.build(found, ACTOR)


async def test_an_unknown_server_is_refused_and_named() -> None:
    with pytest.raises(UnknownName, match="seerch"):
        await mcp_config.find(["seerch"], StoredSecrets())


async def test_entries_of_folders_are_no_servers_and_a_server_of_that_name_is_ambiguous() -> None:
    saved = StoredSecrets()
    found = await mcp_config.find(["skills", "skills.notes", "search"], saved)
    assert [server.name for server, _ in found.servers] == ["search"]
    await program_folders.check(["skills.notes", "search"], saved)

    saved._servers["skills"] = ToolServerSettings(url="https://skills.example.org/mcp")
    with pytest.raises(InvalidInput, match=r'"skills\.notes" is ambiguous'):
        await program_folders.check(["search", "skills.notes"], saved)
