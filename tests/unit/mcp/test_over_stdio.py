"""Wakes over stdio, where clients older than protocol 2026-07-28 can subscribe too."""

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

from daybook.features.tasks import resources
from daybook.ledger.engine import Ledger
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
from tests.waiting import becomes_true

__all__ = ["ledger"]

pytestmark = pytest.mark.e2e


class UpdateRecorder:
    """A message handler that records the URIs of resource notifications."""

    def __init__(self) -> None:
        self.uris: asyncio.Queue[str] = asyncio.Queue()

    async def __call__(self, message: IncomingMessage) -> None:
        if isinstance(message, ResourceUpdatedNotification):
            self.uris.put_nowait(message.params.uri)


@asynccontextmanager
async def client(mode: str, updates: UpdateRecorder | None = None) -> AsyncIterator[Client]:
    words = ["-m", "daybook", "mcp", "--owner", "agent:cleo"]
    program = StdioServerParameters(command=sys.executable, args=words, env=dict(os.environ))
    async with Client(stdio_client(program), mode=mode, message_handler=updates) as found:
        yield found


@pytest.mark.slow
async def test_a_legacy_client_gets_wakes_until_it_unsubscribes(ledger: Ledger) -> None:
    hers, other = [await registered(ledger, "agent:cleo", each) for each in ("hers", "other")]
    noras = await registered(ledger, "agent:nora", "noras")
    updates, uri = UpdateRecorder(), resources.session_uri("hers")
    async with client("legacy", updates) as cleo:
        assert cleo.server_capabilities.resources is not None
        assert cleo.server_capabilities.resources.subscribe
        with pytest.raises(MCPError, match="there is no resource"):
            params = SubscribeRequestParams(uri=resources.session_uri("noras"))
            await cleo.session.send_request(SubscribeRequest(params=params), EmptyResult)
        for _ in range(2):  # a second subscription has no effect
            params = SubscribeRequestParams(uri=uri)
            await cleo.session.send_request(SubscribeRequest(params=params), EmptyResult)
        assert [await connected(ledger, each) for each in (hers, other, noras)] == [
            True,
            False,
            False,
        ]
        wake = await woken(ledger, hers)
        async with asyncio.timeout(BUSY):
            assert await updates.uris.get() == uri

        async def delivered() -> bool:
            return await state(ledger, wake) == "delivered"

        assert await becomes_true(delivered, BUSY)
        left = UnsubscribeRequest(params=UnsubscribeRequestParams(uri=uri))
        await cleo.session.send_request(left, EmptyResult)
        assert not await connected(ledger, hers)
        untold = await woken(ledger, hers)
    assert updates.uris.empty()
    assert await state(ledger, untold) == "pending"


@pytest.mark.parametrize("mode", one_in(2, [MODERN, "legacy"]))
async def test_the_session_of_a_client_that_exits_is_no_longer_connected(
    ledger: Ledger, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The library kills a server that has not exited within 2 s; a busy machine needs longer.
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

    async def is_disconnected() -> bool:
        return not await connected(ledger, hers)

    assert await becomes_true(is_disconnected, BUSY / 2)
