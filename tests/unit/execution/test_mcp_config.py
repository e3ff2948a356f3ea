"""What stands in the MCP configuration of a program."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from daybook.errors import InvalidInput, UnknownName
from daybook.execution import mcp_config
from daybook.home import Home
from daybook.http.secrets import Secret
from daybook.owners import Actor
from daybook.tools.server_blocks import ToolServer, ToolServerSettings

ACTOR = Actor("agent:brief", "ana", "run")


class Kept:
    """Two saved servers, and a secret that is bound to a host."""

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


async def test_a_program_is_told_its_servers_with_their_secrets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FILES_TOKEN", "t0ken")
    monkeypatch.setenv("HOME", "/home/ana")
    made = await mcp_config.build(await mcp_config.find(["files", "search"], Kept()), ACTOR)
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


async def test_daybook_is_a_server_that_works_for_the_actor_with_the_same_ledger(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DAYBOOK_HOME", str(tmp_path))
    monkeypatch.setenv("DAYBOOK_LEDGER_URL", "postgresql://u:pw@h/d")
    monkeypatch.setenv("DAYBOOK_WEBHOOK_SECRET", "whsec_x")
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    monkeypatch.setenv("PREFECT_LOGGING_LEVEL", "DEBUG")
    made = await mcp_config.build(await mcp_config.find(["daybook"], Kept()), ACTOR)
    (entry,) = made.config["mcpServers"].values()
    whose = ["--owner", "agent:brief", "--user-id=ana"]
    assert entry["command"] == sys.executable
    assert entry["args"] == ["-m", "daybook", "mcp", *whose]
    ours = {k: v for k, v in entry["env"].items() if k.startswith(("DAYBOOK", "PREFECT"))}
    assert ours.pop("PREFECT_API_URL") == "http://127.0.0.1:1/api"
    assert ours.pop("DAYBOOK_LEDGER_URL") == "postgresql://u:pw@h/d"
    assert ours.pop("DAYBOOK_HOME") == str(tmp_path)
    assert "DAYBOOK_WEBHOOK_SECRET" not in ours
    assert "PREFECT_LOGGING_LEVEL" not in ours
    sent = ours.pop("PREFECT_API_AUTH_STRING")  # of a server that somebody else runs
    assert made.secrets == {"postgresql://u:pw@h/d", sent}


async def test_a_program_does_not_get_the_credential_of_the_server_of_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Daybook's own server, which the program starts, reads it from the home."""
    monkeypatch.setenv("DAYBOOK_HOME", str(tmp_path))
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", Home(tmp_path).ensure_credential())
    made = await mcp_config.build(await mcp_config.find(["daybook"], Kept()), ACTOR)
    assert "PREFECT_API_AUTH_STRING" not in str(made.config)
    assert "PREFECT_API_AUTH_STRING" not in made.variables


async def test_a_secret_goes_to_no_other_host() -> None:
    found = await mcp_config.find(["search"], Kept("other.example.org"))
    with pytest.raises(InvalidInput, match="key"):
        await mcp_config.build(found, ACTOR)


async def test_a_server_that_nobody_knows_is_refused_by_its_name() -> None:
    with pytest.raises(UnknownName, match="seerch"):
        await mcp_config.find(["seerch"], Kept())
