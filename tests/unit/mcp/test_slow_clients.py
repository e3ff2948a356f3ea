"""Limits of the MCP server over HTTP: silent connections and slow bodies block no others."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack

import httpx
import pytest
from anyio.lowlevel import checkpoint

from daybook.api import tokens
from daybook.home import Home
from daybook.mcp import http
from tests.unit.mcp.conftest import HEADERS, Served, served

BUSY = 60.0
"""Seconds that a busy machine may take."""

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def opened(stack: AsyncExitStack, daybook_server: Served, data: bytes = b"") -> Connection:
    at = httpx.URL(daybook_server.url)
    reader, writer = await asyncio.open_connection(at.host, at.port)
    stack.callback(writer.close)
    writer.write(data)
    await writer.drain()
    return reader, writer


async def ended(connection: Connection) -> bool:
    """Wait until the connection is closed, and return whether it sent nothing more."""
    try:
        return await asyncio.wait_for(connection[0].read(), BUSY) == b""
    except ConnectionResetError:
        return True


async def test_silent_connections_are_closed_and_new_requests_are_answered(
    daybook_home: Home, token: str
) -> None:
    async with served(most=3, waiting=3, head=2.0) as daybook_server, AsyncExitStack() as stack:
        half = f"POST {http.PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\nX-".encode()
        silent = [await opened(stack, daybook_server, data) for data in (b"", b"", half)]
        assert [await ended(each) for each in silent] == [True, True, True]
        assert (await daybook_server.post(token)).status_code == 200


def head_of(token: str, length: int) -> bytes:
    headers = HEADERS | {
        "host": "127.0.0.1",
        "authorization": f"Bearer {token}",
        "content-length": str(length),
    }
    lines = [f"POST {http.PATH} HTTP/1.1", *(f"{name}: {headers[name]}" for name in headers)]
    return "".join(f"{line}\r\n" for line in [*lines, ""]).encode()


async def test_a_connection_whose_body_does_not_arrive_is_closed(
    daybook_home: Home, token: str
) -> None:
    async with served(body=0.5, head=BUSY) as daybook_server, AsyncExitStack() as stack:
        slow = [
            await opened(stack, daybook_server, head_of(token, 500) + data) for data in (b"", b"{")
        ]
        assert [await ended(each) for each in slow] == [True, True]
        assert (await daybook_server.post(token)).status_code == 200


async def test_slow_requests_of_one_owner_leave_slots_for_other_owners(
    daybook_home: Home, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "MAX_REQUESTS_PER_OWNER", 2)
    another = (await tokens.add("agent:cleo")).token
    other = (await tokens.add("agent:nora")).token
    async with served(most=4, body=BUSY) as daybook_server, AsyncExitStack() as stack:
        slow = [await opened(stack, daybook_server, head_of(token, 500)) for _ in range(2)]
        while daybook_server.gate.owners["agent:cleo"] < 2:
            await checkpoint()
        for shown in (token, another):
            answer = await daybook_server.post(shown)
            assert answer.status_code == 429
            assert answer.text.startswith("agent:cleo already has 2 requests in progress")
        assert (await daybook_server.post(other)).status_code == 200
        for _, writer in slow:
            writer.close()
        while daybook_server.gate.owners["agent:cleo"]:
            await checkpoint()
        assert (await daybook_server.post(token)).status_code == 200


async def test_a_slow_body_is_awaited_but_an_incomplete_next_request_is_not(
    daybook_home: Home, token: str
) -> None:
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}).encode()
    head = head_of(token, len(body))
    async with served(head=2.0) as daybook_server, AsyncExitStack() as stack:
        slow = await opened(stack, daybook_server, head)
        assert await ended(await opened(stack, daybook_server))  # opened later, timed out
        slow[1].write(body)
        beginning = await asyncio.wait_for(slow[0].readuntil(b"\r\n\r\n"), BUSY)
        assert beginning.startswith(b"HTTP/1.1 200 ")
        length = next(
            each for each in beginning.lower().split(b"\r\n") if b"content-length" in each
        )
        await asyncio.wait_for(slow[0].readexactly(int(length.partition(b":")[2])), BUSY)
        slow[1].write(head[:20])
        assert await ended(slow)
