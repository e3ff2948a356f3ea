"""Tool jobs on the command line and in a real Prefect, in both directions; without a worker."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from daybook.home import Home
from daybook.ledger.engine import open_ledger
from daybook.operations import setup
from daybook.tools import worker_tools
from daybook.tools.server_blocks import STORE
from tests import rows
from tests.at_prefect import add_document, with_client
from tests.commands import DaybookJson
from tests.toolbox import install, nobody_there

pytestmark = pytest.mark.e2e

EVERY = ("--every", "1h")
SOURCE = "def reindex(full: bool = False) -> None:\n    'Build the index again.'\n"
SERVER = """
from fastmcp import FastMCP
server = FastMCP("a test's")
@server.tool
def reindex(full: bool) -> None:
    pass
server.run(transport="stdio", show_banner=False)
"""


@pytest.fixture
def python_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install the Python tool `reindex`."""
    install(tmp_path / "site", SOURCE, "reindex")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))


@pytest.fixture
def prepared(
    prefect_server: Any, daybook_home: Home, python_tool: None, tmp_path: Path
) -> Iterator[Home]:
    """Save the servers `search`, which has a tool `reindex`, and `away`, which does not answer."""
    with_client(setup.prepare)
    (tmp_path / "server.py").write_text(SERVER)
    command = [sys.executable, str(tmp_path / "server.py")]
    with nobody_there() as url:
        servers: dict[str, dict[str, Any]] = {"search": {"command": command}, "away": {"url": url}}

        async def save(client: Any) -> None:
            for name, settings in servers.items():
                await add_document(STORE, client, name, settings)

        async def forget(client: Any) -> None:
            for name in servers:
                await STORE.remove(client, name)

        with_client(save)
        try:
            yield daybook_home
        finally:
            with_client(forget)


def deployment(name: str) -> Any:
    return with_client(lambda client: client.read_deployment_by_name(name))


@pytest.mark.parametrize("tool", ["reindex", "search.reindex"])
@pytest.mark.slow
def test_an_added_tool_job_is_deployed_with_the_typed_fields(
    daybook_json: DaybookJson, tool: str
) -> None:
    job = daybook_json("add", "--tool", tool, "--params", '{"full": true}', *EVERY)

    assert (job["name"], job["kind"], job["tool"]) == (tool, "tool-call", tool)
    assert (job["params"], job["notes"], job["sync"]) == ({"full": True}, [], "synced")
    assert job["policy"]["retries"] == 0
    found = deployment(job["deployment"])
    assert found.entrypoint == "flows/tool_call.py:tool_call"
    assert (found.parameters["tool"], found.parameters["params"]) == (tool, {"full": True})
    assert daybook_json("sync")["unchanged"] == 1


@pytest.mark.floor("B", "An unknown tool is refused")
@pytest.mark.slow
def test_a_job_with_an_invalid_tool_call_is_refused_and_not_stored(
    daybook_json: DaybookJson,
) -> None:
    invalid: list[tuple[tuple[str, ...], tuple[str, ...]]] = [
        (("--tool", "reindx"), ("--tool: ", "reindex")),
        (("--tool", "search.reindx"), ("--tool: ", "search.reindex")),
        (("--tool", "nobody.reindex"), ("--tool: ", "nobody")),
        (("--params", '{"full": "maybe"}'), ("--params: ", "'maybe' is not of type 'boolean'")),
        (("--tool", "search.reindex", "--params", "{}"), ("--params: ", "'full'")),
        (("--params", '{"full": true, "api_key": "abc"}'), ("--params: ", "looks like a secret")),
        (("--params", '{"full": "{{secret:}}"}'), ("--params: ", "misspelt")),
        (("--tool", "http://169.254.169.254/mcp#x"), ("metadata",)),
    ]
    for (typed, words), checked in rows.each(invalid):
        with checked:
            tool = () if "--tool" in typed else ("--tool", "reindex")
            message = daybook_json("add", *tool, *typed, *EVERY, code=2)["error"]["message"]
            for each in words:
                assert each in message
    assert daybook_json("list") == []

    job = daybook_json("add", "--tool", "reindex", "--name", "renew", *EVERY)
    for typed, _ in invalid:
        if "search" not in str(typed):  # that server is a process, which each command starts
            daybook_json("edit", "renew", *typed, code=2)
    assert daybook_json("show", "renew")["updated_at"] == job["updated_at"]


@pytest.mark.slow
def test_a_tool_of_an_unreachable_server_is_accepted_with_a_note(daybook_json: DaybookJson) -> None:
    job = daybook_json("add", "--tool", "away.reindex", "--params", '{"n": 1}', *EVERY)
    (note,) = job["notes"]
    assert "http://127.0.0.1:" in note
    assert "when it is called" in note
    edited = daybook_json("edit", job["id"], "--params", '{"n": 2}')
    assert (edited["params"], len(edited["notes"])) == ({"n": 2}, 1)
    # An edit of other fields does not check the tool.
    assert daybook_json("edit", job["id"], "--retries", "2")["notes"] == []


async def record_worker(name: str) -> None:
    async with open_ledger() as ledger:
        await worker_tools.record(ledger, name)


def test_a_python_tool_that_the_worker_lacks_is_accepted_with_a_note(
    prepared: Home, daybook_json: DaybookJson, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as worker:  # in another installation, without the tool
        worker.setattr(sys, "prefix", "/opt/other")
        worker.setattr(sys, "path", [each for each in sys.path if not each.endswith("/site")])
        asyncio.run(record_worker("w1"))
    (note,) = daybook_json("add", "--tool", "reindex", *EVERY)["notes"]
    assert note.startswith("the worker w1 does not have the tool reindex, so the job would fail")
    asyncio.run(record_worker("w1"))
    assert daybook_json("add", "--tool", "reindex", *EVERY)["notes"] == []


def test_a_secret_that_does_not_exist_yet_is_accepted_with_a_note(
    daybook_json: DaybookJson,
) -> None:
    header = ("--header", "X-Token: {{secret:nobodys}}")
    job = daybook_json("add", "--webhook", "http://127.0.0.1:1/x", *header, *EVERY)
    (note,) = job["notes"]
    assert "`daybook secrets add nobodys`" in note
    params = '{"x": "{{secret:nobodys}}"}'
    job = daybook_json("add", "--tool", "away.reindex", "--params", params, *EVERY)
    _, note = job["notes"]
    assert "the secret nobodys does not exist yet" in note


@pytest.mark.slow
def test_params_edited_in_prefect_are_imported(daybook_json: DaybookJson) -> None:
    job = daybook_json("add", "--tool", "reindex", *EVERY, "--name", "renew")
    found = deployment(job["deployment"])
    parameters = {**found.parameters, "params": {"full": True}}

    async def edited(client: Any) -> None:
        from prefect.client.schemas.actions import DeploymentUpdate

        await client.update_deployment(found.id, DeploymentUpdate(parameters=parameters))

    with_client(edited)
    daybook_json("sync")
    assert daybook_json("show", "renew")["params"] == {"full": True}
    assert deployment(job["deployment"]).parameters == parameters
