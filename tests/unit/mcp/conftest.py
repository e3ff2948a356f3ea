"""Fixtures for the MCP server over HTTP, with its own ledger and a token."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import uvicorn

from daybook import settings
from daybook.api import tokens
from daybook.home import Home
from daybook.ledger.engine import Ledger
from daybook.mcp import http
from daybook.operations import web
from daybook.operations.host_names import AllowedNames

HEADERS = {
    "accept": "application/json, text/event-stream",
    "content-type": "application/json",
    "mcp-protocol-version": "2025-06-18",
}


@dataclass
class Served:
    """A running server with its address, and a client of it."""

    url: str
    client: httpx.AsyncClient
    server: uvicorn.Server
    gate: http.BearerGuard

    async def post(
        self, token: str = "", method: str = "tools/list", **more: object
    ) -> httpx.Response:
        """Send one request of the MCP protocol."""
        headers = HEADERS | ({"authorization": f"Bearer {token}"} if token else {})
        asked = {"jsonrpc": "2.0", "id": 1, "method": method, "params": more}
        return await self.client.post(http.PATH, json=asked, headers=headers)

    async def call(self, token: str, tool: str, **arguments: object) -> str:
        """Call a tool, and return the text of its answer."""
        answer = await self.post(token, "tools/call", name=tool, arguments=arguments)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["result"]["content"][0]["text"])


@asynccontextmanager
async def served(
    names: tuple[str, ...] = (),
    *,
    any_address: bool = False,
    **limits: Any,
) -> AsyncIterator[Served]:
    async with Ledger(settings.load().ledger_address) as ledger:
        listener = web.listen("127.0.0.1", 0)
        application = http.application(ledger, AllowedNames(names, any_address=any_address))
        server = http.build_server(application, **limits)
        running = asyncio.create_task(server.serve([listener]))
        url = web.url(*listener.getsockname())
        try:
            async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=60.0) as client:
                yield Served(f"{url}{http.PATH}", client, server, application)
        finally:
            server.should_exit = True
            await running


@pytest.fixture
async def daybook_server(daybook_home: Home) -> AsyncIterator[Served]:
    async with served() as found:
        yield found


@pytest.fixture
async def token(daybook_home: Home) -> str:
    """Create a token of the agent cleo."""
    return (await tokens.add("agent:cleo", user_id="u-7")).token
