"""Connections that say nothing, and requests that do not end, keep no others out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import httpx
import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from daybook.operations import connections, web

pytestmark = pytest.mark.anyio

BUSY = 60.0
"""Seconds that a busy machine may take."""

HALF = b"GET /held HTTP/1.1\r\nHost: 127.0.0.1\r\nX-"


class Application:
    """Answers; a request of `/held` once it is let go."""

    def __init__(self) -> None:
        self.held, self.go = asyncio.Queue[None](), asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/held":
            self.held.put_nowait(None)
            await self.go.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"well"})


class Here:
    def __init__(self, url: str, client: httpx.AsyncClient, application: Application) -> None:
        self.url, self.client, self.application = url, client, application

    async def opened(self, stack: AsyncExitStack, said: bytes = b"") -> asyncio.StreamReader:
        at = httpx.URL(self.url)
        reader, writer = await asyncio.open_connection(at.host, at.port)
        stack.callback(writer.close)
        writer.write(said)
        await writer.drain()
        return reader


@asynccontextmanager
async def served(**limits: float) -> AsyncIterator[Here]:
    application = Application()
    listener = web.listen("127.0.0.1", 0)
    config = connections.server_config(
        application,
        graceful=1,
        lifespan="off",
        log_config=None,
        **limits,  # type: ignore[arg-type]
    )
    server = uvicorn.Server(config)
    running = asyncio.create_task(server.serve([listener]))
    url = web.url(*listener.getsockname())
    try:
        async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=BUSY) as client:
            yield Here(url, client, application)
    finally:
        application.go.set()
        server.should_exit = True
        await running


async def ended(reader: asyncio.StreamReader) -> bool:
    """Whether nothing more comes; waits for it."""
    try:
        return await asyncio.wait_for(reader.read(), BUSY) == b""
    except ConnectionResetError:
        return True


async def test_more_half_open_connections_than_may_wait_keep_nobody_out() -> None:
    async with served(head=BUSY) as here, AsyncExitStack() as stack:
        silent = [await here.opened(stack, HALF) for _ in range(110)]
        answer = await asyncio.wait_for(here.client.get("/"), BUSY)
        assert answer.status_code == 200
        # Those that have waited longest were closed, and no more than were too many.
        assert all([await ended(each) for each in silent[:11]])
        assert not any(each.at_eof() for each in silent[12:])


async def test_a_connection_that_waits_takes_no_requests_place() -> None:
    async with served(most=1, head=BUSY) as here, AsyncExitStack() as stack:
        for _ in range(5):
            await here.opened(stack, HALF)
        assert (await here.client.get("/")).status_code == 200


async def test_one_request_too_many_is_told_so_and_others_go_on() -> None:
    async with served(most=2) as here, asyncio.TaskGroup() as group:
        held = [group.create_task(here.client.get("/held")) for _ in range(2)]
        for _ in held:
            await asyncio.wait_for(here.application.held.get(), BUSY)
        answer = await here.client.get("/")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        here.application.go.set()
        assert [(await each).status_code for each in held] == [200, 200]
        assert (await here.client.get("/")).status_code == 200


async def test_one_address_has_a_share_of_the_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MAX_REQUESTS_PER_PEER", 1)
    async with served(most=3) as here, asyncio.TaskGroup() as group:
        held = group.create_task(here.client.get("/held"))
        await asyncio.wait_for(here.application.held.get(), BUSY)
        assert (await here.client.get("/")).status_code == 503
        here.application.go.set()
        assert (await held).status_code == 200


async def test_a_silent_connection_is_closed() -> None:
    async with served(head=0.5) as here, AsyncExitStack() as stack:
        silent = [await here.opened(stack, said) for said in (b"", HALF)]
        assert [await ended(each) for each in silent] == [True, True]


async def test_a_request_that_takes_long_is_not_cut_off() -> None:
    async with served(head=0.2, body=0.2) as here, AsyncExitStack() as stack:
        asking = asyncio.create_task(here.client.get("/held"))
        await asyncio.wait_for(here.application.held.get(), BUSY)
        assert await ended(await here.opened(stack))  # it came later, and its time is over
        here.application.go.set()
        assert (await asking).status_code == 200


def test_places_are_given_back() -> None:
    places = connections.RequestSlots(3, 2)
    with places.place("a") as one, places.place("a") as two, places.place("a") as three:
        assert (one, two, three) == (True, True, False)
        with places.place("b") as other, places.place("c") as more:
            assert (other, more) == (True, False)
        assert places.taken == {"a": 2}
    assert places.taken == {}


@pytest.mark.parametrize(
    ("address", "counts_as"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8::ffff:1", "2001:db8::/64"),
        ("::ffff:192.0.2.7", "::ffff:192.0.2.7"),
    ],
)
def test_a_network_of_one_client_counts_as_one(address: str, counts_as: str) -> None:
    assert connections.peer_key((address, 1)) == counts_as


def test_no_address_is_one_peer() -> None:
    assert connections.peer_key(None) == ""
