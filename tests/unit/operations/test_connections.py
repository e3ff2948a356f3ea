"""Limits of the HTTP server: silent connections and endless requests do not block others."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from ipaddress import IPv4Address, IPv6Address, ip_address

import httpx
import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from websockets.asyncio.client import connect

from daybook.operations import connections, web

pytestmark = pytest.mark.anyio

BUSY = 60.0
"""Seconds that a busy machine may take."""

HALF = b"GET /held HTTP/1.1\r\nHost: 127.0.0.1\r\nX-"


class Application:
    """An application that answers at once, but `/held` only after ``go`` is set."""

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

    async def opened(self, stack: AsyncExitStack, data: bytes = b"") -> asyncio.StreamReader:
        at = httpx.URL(self.url)
        reader, writer = await asyncio.open_connection(at.host, at.port)
        stack.callback(writer.close)
        writer.write(data)
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
    """Wait until the connection is closed, and return whether it sent nothing more."""
    try:
        return await asyncio.wait_for(reader.read(), BUSY) == b""
    except ConnectionResetError:
        return True


async def test_too_many_half_open_connections_do_not_block_a_new_request() -> None:
    async with served(head=BUSY) as server, AsyncExitStack() as stack:
        silent = [await server.opened(stack, HALF) for _ in range(110)]
        answer = await asyncio.wait_for(server.client.get("/"), BUSY)
        assert answer.status_code == 200
        # The server closed the oldest connections, and no more than exceeded the limit.
        assert all([await ended(each) for each in silent[:11]])
        assert not any(each.at_eof() for each in silent[12:])


async def test_a_half_open_connection_takes_no_request_slot() -> None:
    async with served(most=1, head=BUSY) as server, AsyncExitStack() as stack:
        for _ in range(5):
            await server.opened(stack, HALF)
        assert (await server.client.get("/")).status_code == 200


async def test_a_request_above_the_limit_gets_503_and_the_others_continue() -> None:
    async with served(most=2) as server, asyncio.TaskGroup() as group:
        held = [group.create_task(server.client.get("/held")) for _ in range(2)]
        for _ in held:
            await asyncio.wait_for(server.application.held.get(), BUSY)
        answer = await server.client.get("/")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        server.application.go.set()
        assert [(await each).status_code for each in held] == [200, 200]
        assert (await server.client.get("/")).status_code == 200


async def test_one_address_gets_only_its_share_of_the_request_slots(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connections, "MAX_REQUESTS_PER_PEER", 1)
    async with served(most=3) as server, asyncio.TaskGroup() as group:
        held = group.create_task(server.client.get("/held"))
        await asyncio.wait_for(server.application.held.get(), BUSY)
        assert (await server.client.get("/")).status_code == 503
        server.application.go.set()
        assert (await held).status_code == 200


async def test_a_connection_without_a_complete_request_is_closed() -> None:
    async with served(head=0.5) as server, AsyncExitStack() as stack:
        silent = [await server.opened(stack, data) for data in (b"", HALF)]
        assert [await ended(each) for each in silent] == [True, True]


async def test_a_slow_request_is_not_cut_off() -> None:
    async with served(head=0.2, body=0.2) as server, AsyncExitStack() as stack:
        asking = asyncio.create_task(server.client.get("/held"))
        await asyncio.wait_for(server.application.held.get(), BUSY)
        assert await ended(await server.opened(stack))  # opened later, timed out
        server.application.go.set()
        assert (await asking).status_code == 200


async def test_a_websocket_is_not_cut_off() -> None:
    async def echo(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while "text" in (event := await receive()):
            await send({"type": "websocket.send", "text": event["text"]})

    listener = web.listen("127.0.0.1", 0)
    host, port = listener.getsockname()
    protocol = connections.limited_protocol(head=0.2, body=0.2)
    server = uvicorn.Server(uvicorn.Config(echo, http=protocol, lifespan="off", log_config=None))
    running = asyncio.create_task(server.serve([listener]))
    try:
        async with connect(f"ws://{host}:{port}/", proxy=None) as socket:
            reader, writer = await asyncio.open_connection(host, port)
            assert await ended(reader)  # opened later, timed out
            writer.close()
            await socket.send("still here")
            assert await socket.recv() == "still here"
    finally:
        server.should_exit = True
        await running


def test_request_slots_are_released() -> None:
    places = connections.RequestSlots(3, 2)
    with places.slot("a") as one, places.slot("a") as two, places.slot("a") as three:
        assert (one, two, three) == (True, True, False)
        with places.slot("b") as other, places.slot("c") as more:
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
def test_an_ipv6_network_of_64_bits_counts_as_one_peer(address: str, counts_as: str) -> None:
    assert connections.peer_key((address, 1)) == counts_as


def test_connections_without_an_address_count_as_one_peer() -> None:
    assert connections.peer_key(None) == ""


def test_the_address_of_a_peer_is_parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    # Each new connection beyond the limit compares the addresses of all that wait.
    parsed = list[str]()

    def parse(host: str) -> IPv4Address | IPv6Address:
        parsed.append(host)
        return ip_address(host)

    monkeypatch.setattr(connections, "ip_address", parse)
    keys = {connections.peer_key(("198.51.100.7", port)) for port in range(100)}
    assert (keys, parsed) == ({"198.51.100.7"}, ["198.51.100.7"])


async def test_a_server_stops_at_once_although_it_looks_after_itself_rarely(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connections, "TICK_SECONDS", 3600.0)
    config = connections.server_config(Application(), graceful=1, lifespan="off", log_config=None)
    server = connections.Server(config)
    listener = web.listen("127.0.0.1", 0)
    address = web.url(*listener.getsockname())
    running = asyncio.create_task(server.serve([listener]))
    async with asyncio.timeout(BUSY), httpx.AsyncClient(trust_env=False, timeout=BUSY) as client:
        assert (await client.get(address)).text == "well"
        await asyncio.to_thread(server.handle_exit, signal.SIGTERM, None)
        server._captured_signals.clear()  # which it sends to itself at its end
        await running


async def test_a_server_whose_end_is_called_off_pauses_as_before() -> None:
    config = connections.server_config(Application(), graceful=1, lifespan="off", log_config=None)
    server, looks, has_looked = connections.Server(config), 0, asyncio.Event()

    async def on_tick(counter: int) -> bool:
        nonlocal looks
        looks += 1
        has_looked.set()
        return server.should_exit

    server.on_tick = on_tick  # type: ignore[method-assign]
    running = asyncio.create_task(server.main_loop())
    async with asyncio.timeout(BUSY):
        await has_looked.wait()
        server.should_exit, server.should_exit = True, False
        before = looks
        for _ in range(1_000):  # turns of the event loop, of which it would use each
            turned = asyncio.Event()
            asyncio.get_running_loop().call_soon(turned.set)
            await turned.wait()
        assert looks - before <= 2
        server.should_exit = True
        await running
