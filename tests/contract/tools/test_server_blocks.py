"""Tool servers in a real Prefect: saved as a block, read by name, edited in its UI."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import BlockDocumentUpdate

import blocks
from daybook.errors import InvalidInput, NotFound, UnknownName
from daybook.home import Home
from daybook.http.guard import Guard, Rule
from daybook.resources import secrets
from daybook.tools import calls
from daybook.tools.server_blocks import STORE, PrefectServers
from tests.at_prefect import add_document, knowing_our_blocks
from tests.contract.tools.conftest import OURS, ReportPipe

pytestmark = pytest.mark.anyio

VALUE = "hunter-2-and-more"


@pytest.fixture
async def client(prefect_server: object, daybook_home: Home) -> AsyncIterator[PrefectClient]:
    """Yield a client of a Prefect that has our block types and no tool servers."""
    async with knowing_our_blocks(STORE.slug, secrets.STORE.slug) as client:
        yield client


@pytest.mark.slow
async def test_a_tool_server_is_added_read_replaced_and_removed(client: PrefectClient) -> None:
    servers = PrefectServers(client)
    await add_document(STORE, client, "time", {"command": ["uvx", "mcp-server-time"]})
    assert await servers.names() == ["time"]
    assert (await servers.read("time")).settings.command == ["uvx", "mcp-server-time"]
    loaded: Any = await blocks.ToolServerBlock.aload("time", client=client)
    assert loaded.get_server() == await servers.read("time")
    with pytest.raises(InvalidInput, match='"time" is taken'):
        await add_document(STORE, client, "time", {"url": "https://a.example/mcp"}, replace=False)
    await add_document(STORE, client, "time", {"url": "https://a.example/mcp"})
    assert (await servers.read("time")).settings.command == []
    await STORE.remove(client, "time")
    with pytest.raises(NotFound):
        await STORE.remove(client, "time")
    with pytest.raises(UnknownName):
        await servers.read("time")


async def test_a_block_saved_in_python_is_a_tool_server(client: PrefectClient) -> None:
    await blocks.ToolServerBlock(url="https://a.example/mcp").asave("web", client=client)
    assert (await PrefectServers(client).read("web")).settings.url == "https://a.example/mcp"


@pytest.mark.parametrize("settings", [{}, {"url": "ftp://a.example"}], ids=["none", "no address"])
async def test_an_invalid_tool_server_is_refused_and_not_stored(
    client: PrefectClient, settings: dict[str, Any]
) -> None:
    servers = PrefectServers(client)
    with pytest.raises(InvalidInput):
        await add_document(STORE, client, "time", settings)
    with pytest.raises(InvalidInput):
        await add_document(STORE, client, "Time.1", {"command": ["cat"]})
    assert await servers.names() == []


async def test_a_tool_server_made_invalid_in_prefect_is_reported(client: PrefectClient) -> None:
    servers = PrefectServers(client)
    await add_document(STORE, client, "time", {"command": ["cat"]})
    document = await STORE.find(client, "time")
    assert document is not None
    changed = {**document.data, "work_dir": "here"}
    await client.update_block_document(document.id, BlockDocumentUpdate(data=changed))
    with pytest.raises(
        InvalidInput, match='the tool server "time" is invalid: work_dir: is relative'
    ):
        await servers.read("time")
    [listed] = await servers.every()
    assert listed.name == "time" and (listed.problem or "").startswith("work_dir: is relative")


@pytest.mark.slow
async def test_a_tool_of_a_saved_server_is_called_with_a_secret(
    client: PrefectClient, report_pipe: ReportPipe
) -> None:
    servers = PrefectServers(client)
    await add_document(
        STORE, client, "ours", {"command": [sys.executable, str(OURS), str(report_pipe.path)]}
    )
    await add_document(
        secrets.STORE, client, "ops", {"value": VALUE, "hosts": ["tool:ours.digest"]}
    )
    prepared = await calls.prepare(
        "ours.digest",
        {"password": "{{secret:ops}}"},
        "request:x:1",
        servers,
        servers.secrets,
        Guard(Rule.AGENT),
    )
    called = await calls.call(prepared, timeout=60)
    assert "******** " in str(called.outcome.output)
    assert VALUE not in repr(called)
