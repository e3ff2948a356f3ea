"""On stdio clients of before 2026-07-28 are told as well when their task session is woken."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from mcp.client import Client
from mcp.client.session import IncomingMessage
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.shared.exceptions import MCPError
from mcp.shared.subscriptions import ResourceUpdated
from mcp_types import (
    EmptyResult,
    ResourceUpdatedNotification,
    SubscribeRequest,
    SubscribeRequestParams,
    UnsubscribeRequest,
    UnsubscribeRequestParams,
)

from daybook.ledger.engine import Ledger
from daybook.mcp import resources
from tests.costs import one_in
from tests.unit.mcp.test_subscriptions import (
    BUSY,
    MODERN,
    connected,
    ledger,
    registered,
    state,
    woken,
)
from tests.world import so

__all__ = ["ledger"]

pytestmark = pytest.mark.e2e


class Heard:
    """What a client was told, which nobody asked for."""

    def __init__(self) -> None:
        self.uris: asyncio.Queue[str] = asyncio.Queue()

    async def __call__(self, message: IncomingMessage) -> None:
        if isinstance(message, ResourceUpdatedNotification):
            self.uris.put_nowait(message.params.uri)


@asynccontextmanager
async def client(mode: str, heard: Heard | None = None) -> AsyncIterator[Client]:
    words = ["-m", "daybook", "mcp", "--owner", "agent:cleo"]
    program = StdioServerParameters(command=sys.executable, args=words, env=dict(os.environ))
    async with Client(stdio_client(program), mode=mode, message_handler=heard) as found:
        yield found


@pytest.mark.slow
async def test_an_older_client_subscribes_and_leaves(ledger: Ledger) -> None:
    hers, other = [await registered(ledger, "agent:cleo", each) for each in ("hers", "other")]
    noras = await registered(ledger, "agent:nora", "noras")
    heard, uri = Heard(), resources.session_uri("hers")
    async with client("legacy", heard) as cleo:
        assert cleo.server_capabilities.resources is not None
        assert cleo.server_capabilities.resources.subscribe
        with pytest.raises(MCPError, match="there is no resource"):
            params = SubscribeRequestParams(uri=resources.session_uri("noras"))
            await cleo.session.send_request(SubscribeRequest(params=params), EmptyResult)
        for _ in range(2):  # twice is once
            params = SubscribeRequestParams(uri=uri)
            await cleo.session.send_request(SubscribeRequest(params=params), EmptyResult)
        assert [await connected(ledger, each) for each in (hers, other, noras)] == [
            True,
            False,
            False,
        ]
        told = await woken(ledger, hers)
        async with asyncio.timeout(BUSY):
            assert await heard.uris.get() == uri

        async def delivered() -> bool:
            return await state(ledger, told) == "delivered"

        assert await so(delivered, BUSY)
        left = UnsubscribeRequest(params=UnsubscribeRequestParams(uri=uri))
        await cleo.session.send_request(left, EmptyResult)
        assert not await connected(ledger, hers)
        untold = await woken(ledger, hers)
    assert heard.uris.empty()
    assert await state(ledger, untold) == "pending"


@pytest.mark.parametrize("mode", one_in(2, [MODERN, "legacy"]))
async def test_who_leaves_is_not_connected_any_more(
    ledger: Ledger, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The library kills a server that has not ended in 2 s, which a busy machine takes longer for.
    monkeypatch.setattr("mcp.client.stdio.PROCESS_TERMINATION_TIMEOUT", BUSY)
    hers, uri = await registered(ledger, "agent:cleo", "hers"), resources.session_uri("hers")
    async with client(mode) as cleo:
        if mode == "legacy":
            params = SubscribeRequestParams(uri=uri)
            await cleo.session.send_request(SubscribeRequest(params=params), EmptyResult)
            assert await connected(ledger, hers)
        else:
            async with cleo.listen(resource_subscriptions=[uri]) as stream:
                await woken(ledger, hers)
                async with asyncio.timeout(BUSY):
                    assert await anext(stream) == ResourceUpdated(uri)
                assert await connected(ledger, hers)

    async def gone() -> bool:
        return not await connected(ledger, hers)

    assert await so(gone, BUSY / 2)
