"""Presets of tool servers: the servers on PyPI and npm, downloaded and started with their commands.

These tests use the package registries.
"""

from __future__ import annotations

import fnmatch
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from daybook.resources import secrets
from daybook.resources.secrets import SecretSettings
from daybook.tools.server_blocks import STORE, PrefectServers
from daybook.tools.server_presets import PRESETS
from tests import databases
from tests.at_prefect import with_client
from tests.commands import DaybookJson

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(600)]

STARTED = [name for name, each in PRESETS.items() if each.command and name != "slack"]
DATABASE = urlsplit(databases.URL)
VARIABLES = {
    "BRAVE_API_KEY": "no-key",
    "NOTION_TOKEN": "no-token",
    "USER_GOOGLE_EMAIL": "ana@example.org",
    "POSTGRES_HOST": DATABASE.hostname or "",
    "POSTGRES_PORT": str(DATABASE.port or 5432),
    "POSTGRES_DATABASE": DATABASE.path.strip("/"),
    "POSTGRES_USER": DATABASE.username or "",
    "POSTGRES_PASSWORD": DATABASE.password or "none",
}


@pytest.fixture(autouse=True)
def presets(
    daybook_json: DaybookJson, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Set what the servers need, and remove all servers and secrets afterwards."""
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MEMORY_FILE_PATH", str(tmp_path / "memory.jsonl"))
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT_KEY_FILE", str(_service_account(tmp_path)))
    # The development environment has uvx.
    programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    monkeypatch.setenv("PATH", programs)
    yield

    async def remove_all(client: Any) -> None:
        for name in await PrefectServers(client).names():
            await STORE.remove(client, name)
        for name in await secrets.STORE.names(client):
            await secrets.STORE.remove(client, name)

    with_client(remove_all)


def _service_account(folder: Path) -> Path:
    """Write the key file of a service account that does not exist."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    file = folder / "account.json"
    account = {
        "type": "service_account",
        "project_id": "none",
        "private_key_id": "1",
        "private_key": key.decode(),
        "client_email": "none@none.iam.gserviceaccount.com",
        "client_id": "1",
        "token_uri": "https://oauth2.googleapis.com/token",
    }
    file.write_text(json.dumps(account))
    return file


def _download(name: str) -> None:
    """Download the server of the preset into the cache of uvx or npx.

    The first start would otherwise take longer than the timeout for a start.
    """
    program, *arguments = PRESETS[name].command
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    if program == "uvx":
        command = ["uvx", "--from", arguments[0], "python", "-c", "pass"]
    else:
        command = ["npx", "-y", "-p", arguments[1], "node", "-e", "0"]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", STARTED)
def test_a_preset_starts_the_server_and_names_tools_that_it_has(
    name: str, daybook_json: DaybookJson, tmp_path: Path
) -> None:
    if name == "postgres":
        with socket.socket() as probe:
            if probe.connect_ex((DATABASE.hostname, DATABASE.port or 5432)):
                pytest.skip("service absent: PostgreSQL")
    _download(name)
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    folder = ["--", str(tmp_path)] if PRESETS[name].needs_folder else []
    added = daybook_json("tools", "add", "known", "--preset", name, *folder)
    assert (added["problem"], added["notes"]) == (None, [])
    tools = [each.removeprefix("known.") for each in added["tools"]]
    assert not [each for each in PRESETS[name].read_only if not fnmatch.filter(tools, each)]
    shown = daybook_json("tools", "show", "known")
    assert shown["settings"] == added["settings"]
    assert shown["settings"]["read_only"] == list(PRESETS[name].read_only)


def test_the_slack_server_gets_the_token(
    daybook_json: DaybookJson, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slack refuses the token, or cannot be reached, so the server names no tools."""
    _download("slack")
    monkeypatch.setenv("SLACK_MCP_XOXP_TOKEN", "xoxp-no-token")
    added = daybook_json("tools", "add", "known", "--preset", "slack")
    assert "Authentication failed - check your Slack tokens" in added["problem"]


def test_a_missing_program_and_variable_are_reported_and_the_server_is_saved(
    daybook_json: DaybookJson, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NOTION_TOKEN")
    with monkeypatch.context() as without_programs:
        without_programs.setenv("PATH", str(tmp_path))
        added = daybook_json("tools", "add", "known", "--preset", "notion")
    assert added["problem"].endswith(
        'no program "npx" on its PATH; install Node.js, which contains it'
    )
    (note,) = added["notes"]
    assert "https://www.notion.so/profile/integrations" in note
    assert note.endswith("set NOTION_TOKEN in the worker's environment")
    assert daybook_json("tools", "show", "known")["settings"] == added["settings"]


def test_the_command_that_stores_a_missing_secret_is_printed_until_the_secret_exists(
    daybook_json: DaybookJson,
) -> None:
    # At another address than the preset's, so that the test calls nothing outside of this machine.
    words = ("tools", "add", "hub", "--preset", "github", "--url", "http://127.0.0.1:1/mcp")
    added = daybook_json(*words, "--read-only", "look")
    assert 'unknown "github"' in added["problem"]
    (note,) = added["notes"]
    assert note.endswith(": daybook secrets add github --host 127.0.0.1:1 < token.txt")
    assert added["settings"]["headers"] == {"Authorization": "Bearer {{secret:github}}"}
    assert added["settings"]["read_only"] == [*PRESETS["github"].read_only, "look"]

    secret = SecretSettings(value="a-token", hosts=["127.0.0.1:1"])  # type: ignore[arg-type]
    with_client(lambda client: secrets.STORE.save(client, "github", secret))
    replaced = daybook_json(*words, "--replace")
    assert replaced["notes"] == []
    assert "it cannot be reached" in replaced["problem"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--preset", "gitlab"], "use one of: github, git, fetch, filesystem, time"),
        (["--preset", "time", "--command", "cat"], "cannot be combined"),
        (["--preset", "git"], "git needs the absolute path of a folder"),
    ],
    ids=["unknown", "and a command", "without its folder"],
)
def test_a_preset_that_cannot_be_used_is_refused(
    words: list[str], expected: str, daybook_json: DaybookJson
) -> None:
    refused = daybook_json("tools", "add", "known", *words, code=2)
    assert expected in refused["error"]["message"]
    assert daybook_json("tools", "show", "known", code=3)
