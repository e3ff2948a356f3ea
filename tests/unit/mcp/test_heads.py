"""Who opens connections and says nothing on them keeps nobody out."""

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


async def opened(stack: AsyncExitStack, here: Served, said: bytes = b"") -> Connection:
    at = httpx.URL(here.url)
    reader, writer = await asyncio.open_connection(at.host, at.port)
    stack.callback(writer.close)
    writer.write(said)
    await writer.drain()
    return reader, writer


async def ended(connection: Connection) -> bool:
    """Whether nothing more comes; waits for it."""
    try:
        return await asyncio.wait_for(connection[0].read(), BUSY) == b""
    except ConnectionResetError:
        return True


async def test_the_silent_ones_are_closed_and_others_are_let_in(
    daybook_home: Home, token: str
) -> None:
    async with served(most=3, waiting=3, head=2.0) as here, AsyncExitStack() as stack:
        half = f"POST {http.PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\nX-".encode()
        silent = [await opened(stack, here, said) for said in (b"", b"", half)]
        assert [await ended(each) for each in silent] == [True, True, True]
        assert (await here.post(token)).status_code == 200


def head_of(token: str, length: int) -> bytes:
    headers = HEADERS | {
        "host": "127.0.0.1",
        "authorization": f"Bearer {token}",
        "content-length": str(length),
    }
    lines = [f"POST {http.PATH} HTTP/1.1", *(f"{name}: {headers[name]}" for name in headers)]
    return "".join(f"{line}\r\n" for line in [*lines, ""]).encode()


async def test_a_body_that_does_not_come_is_not_waited_for(daybook_home: Home, token: str) -> None:
    async with served(body=0.5, head=BUSY) as here, AsyncExitStack() as stack:
        slow = [await opened(stack, here, head_of(token, 500) + said) for said in (b"", b"{")]
        assert [await ended(each) for each in slow] == [True, True]
        assert (await here.post(token)).status_code == 200


async def test_slow_bodies_of_one_owner_leave_places_for_others(
    daybook_home: Home, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "MAX_REQUESTS_PER_OWNER", 2)
    another = (await tokens.add("agent:cleo"))["token"]
    other = (await tokens.add("agent:nora"))["token"]
    async with served(most=4, body=BUSY) as here, AsyncExitStack() as stack:
        slow = [await opened(stack, here, head_of(token, 500)) for _ in range(2)]
        while here.gate.owners["agent:cleo"] < 2:
            await checkpoint()
        for shown in (token, another):
            answer = await here.post(shown)
            assert answer.status_code == 429
            assert answer.text.startswith("agent:cleo already has 2 requests in progress")
        assert (await here.post(other)).status_code == 200
        for _, writer in slow:
            writer.close()
        while here.gate.owners["agent:cleo"]:
            await checkpoint()
        assert (await here.post(token)).status_code == 200


async def test_a_request_that_began_is_waited_for_and_a_half_one_after_it_is_not(
    daybook_home: Home, token: str
) -> None:
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}).encode()
    head = head_of(token, len(body))
    async with served(head=2.0) as here, AsyncExitStack() as stack:
        slow = await opened(stack, here, head)
        assert await ended(await opened(stack, here))  # it came later, and its time is over
        slow[1].write(body)
        told = await asyncio.wait_for(slow[0].readuntil(b"\r\n\r\n"), BUSY)
        assert told.startswith(b"HTTP/1.1 200 ")
        length = next(each for each in told.lower().split(b"\r\n") if b"content-length" in each)
        await asyncio.wait_for(slow[0].readexactly(int(length.partition(b":")[2])), BUSY)
        slow[1].write(head[:20])
        assert await ended(slow)
