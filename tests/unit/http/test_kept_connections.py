"""Kept connections: they serve only requests to the destination that was checked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress

import pytest

from daybook.errors import InvalidInput, OutgoingRefused
from daybook.http import request as http
from daybook.http.guard import Guard, Rule
from daybook.http.httpx2_transport import Httpx2Transport
from daybook.http.httpx_transport import HttpxTransport
from daybook.http.request import Response
from daybook.http.transport import GuardedTransport
from tests.receiver import Receiver, Wires
from tests.unit.http.conftest import Kind
from tests.unit.http.tricks import PRIVATE, PUBLIC, Answers, Dns

pytestmark = pytest.mark.anyio

ELSEWHERE = "151.101.1.69"
LONG = 60.0
NAMES: Mapping[str, Answers] = {"public.example": ((PUBLIC,), (PRIVATE,))}
"""A name that means something else at the second look-up."""


class Staying(Receiver):
    """Server that answers several requests on each connection; ``accepted`` counts connections.

    In the middle of each answer it waits for ``go``.
    """

    accepted = 0
    lead_to = ""

    def __init__(self) -> None:
        super().__init__()
        self.go = asyncio.Event()
        self.go.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        with suppress(asyncio.IncompleteReadError):
            while head := (await reader.readuntil(b"\r\n\r\n")).decode("latin-1"):
                length = head.lower().partition("content-length:")[2].split("\r\n")[0]
                await reader.readexactly(int(length or 0))
                first = f"302 Found\r\nLocation: {self.lead_to}" if self.lead_to else "200 OK"
                writer.write(f"HTTP/1.1 {first}\r\nContent-Length: 4\r\n\r\ndo".encode())
                await writer.drain()
                await self.go.wait()
                writer.write(b"ne")
                await writer.drain()


@asynccontextmanager
async def staying() -> AsyncIterator[Staying]:
    server = Staying()
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()
        for task in server.connections:
            task.cancel()
        await asyncio.gather(*server.connections, return_exceptions=True)


@asynccontextmanager
async def keeping(
    kind: Kind,
    wires: Wires,
    dns: Dns,
    rule: Rule = Rule.AGENT,
    kept_for: float = LONG,
    *,
    follow: bool = True,
) -> AsyncIterator[HttpxTransport | Httpx2Transport]:
    wires.core = kind.library.core
    guard = Guard(rule, resolver=dns)
    transport = kind(guard, backend=wires, kept_for=kept_for, follow=follow)
    try:
        yield transport
    finally:
        await transport.aclose()


async def _post(transport: GuardedTransport, url: str, *, secret: bool = False) -> Response:
    headers = {"Authorization": "Bearer s3cr3t"} if secret else {}
    hidden = {"authorization"} if secret else ()
    return await http.request(
        transport, "POST", url, headers=headers, body=b"x", secret=hidden, timeout=20
    )


async def test_one_connection_serves_one_request_after_the_other(kind: Kind) -> None:
    dns = Dns(NAMES)
    async with staying() as server:
        wires = Wires({(PUBLIC, 80): server})
        async with keeping(kind, wires, dns) as transport:
            for path in ("a", "a?c=1", "a#d"):
                answer = await _post(transport, f"http://public.example/{path}")
                assert (answer.status, answer.body) == (200, b"done")
    assert (server.accepted, dns.asked) == (1, ["public.example"])


async def test_concurrent_requests_use_at_most_one_connection_each(kind: Kind) -> None:
    async with staying() as server:
        wires = Wires({(PUBLIC, 80): server})
        async with keeping(kind, wires, Dns({"public.example": ((PUBLIC,),)})) as transport:
            every = [_post(transport, "http://public.example/") for _ in range(8)]
            assert {each.status for each in await asyncio.gather(*every)} == {200}
            connected = len(wires.connected)
            assert connected <= 8
            every = [_post(transport, "http://public.example/") for _ in range(8)]
            assert {each.status for each in await asyncio.gather(*every)} == {200}


async def test_after_the_keep_time_the_address_is_resolved_and_checked_again(kind: Kind) -> None:
    dns = Dns(NAMES)
    async with staying() as server, staying() as inside:
        wires = Wires({(PUBLIC, 80): server, (PRIVATE, 80): inside})
        async with keeping(kind, wires, dns, kept_for=1e-9) as transport:
            await _post(transport, "http://public.example/")
            with pytest.raises(OutgoingRefused):
                await _post(transport, "http://public.example/")
    assert dns.asked == ["public.example"] * 2
    assert inside.accepted == 0


async def test_without_a_keep_time_each_request_is_checked_and_has_its_own_connection(
    kind: Kind,
) -> None:
    dns = Dns({"public.example": ((PUBLIC,),)})
    async with staying() as server:
        wires = Wires({(PUBLIC, 80): server})
        async with keeping(kind, wires, dns, kept_for=0.0) as transport:
            for _ in range(3):
                await _post(transport, "http://public.example/")
    assert (server.accepted, len(dns.asked)) == (3, 3)


@pytest.mark.parametrize(
    "url",
    [
        "http://public.example:8080/",
        "http://other.example/",
        "http://PUBLIC.example.evil.example/",
        "http://public.example/there",
    ],
    ids=["port", "name", "longer name", "path"],
)
async def test_a_kept_connection_serves_only_the_same_name_port_and_path(
    kind: Kind, url: str
) -> None:
    names = {host: ((ELSEWHERE,),) for host in ("other.example", "public.example.evil.example")}
    dns = Dns({"public.example": ((PUBLIC,), (ELSEWHERE,)), **names})
    async with staying() as server, staying() as other:
        wires = Wires({(PUBLIC, 80): server, (ELSEWHERE, 80): other, (ELSEWHERE, 8080): other})
        async with keeping(kind, wires, dns) as transport:
            await _post(transport, "http://public.example/")
            await _post(transport, url)
    assert (server.accepted, other.accepted) == (1, 1)
    assert len(dns.asked) == 2


async def test_a_connection_of_the_operator_does_not_serve_an_agent(kind: Kind) -> None:
    dns = Dns({"intranet.example": ((PRIVATE,),)})
    async with staying() as inside:
        wires = Wires({(PRIVATE, 80): inside})
        async with (
            keeping(kind, wires, dns, Rule.OPERATOR) as operators,
            keeping(kind, wires, dns, Rule.AGENT) as agents,
        ):
            assert (await _post(operators, "http://intranet.example/")).status == 200
            with pytest.raises(OutgoingRefused):
                await _post(agents, "http://intranet.example/")
    assert inside.accepted == 1


async def test_the_url_is_checked_for_each_request_on_a_kept_connection(kind: Kind) -> None:
    dns = Dns({"public.example": ((PUBLIC,),)})
    async with staying() as server:
        wires = Wires({(PUBLIC, 80): server})
        async with keeping(kind, wires, dns) as transport:
            await _post(transport, "http://public.example/")
            with pytest.raises(InvalidInput, match="password"):
                await _post(transport, "http://a:b@public.example/")
            with pytest.raises(OutgoingRefused, match="plain http"):
                await _post(transport, "http://public.example/", secret=True)
            assert (await _post(transport, "http://public.example/")).status == 200
    assert server.accepted == 1


async def test_a_redirect_to_a_kept_private_connection_is_refused(kind: Kind) -> None:
    dns = Dns({"public.example": ((PUBLIC,),), "intranet.example": ((PRIVATE,),)})
    async with staying() as server, staying() as inside:
        wires = Wires({(PUBLIC, 80): server, (PRIVATE, 80): inside})
        async with keeping(kind, wires, dns, Rule.OPERATOR) as transport:
            # The private connection is already kept, because the operator may open it.
            await _post(transport, "http://intranet.example/")
            server.lead_to = "http://intranet.example/"
            with pytest.raises(OutgoingRefused, match="from a public to a private"):
                await _post(transport, "http://public.example/")
    assert inside.accepted == 1


async def test_a_redirect_that_is_not_followed_is_returned_as_the_answer(kind: Kind) -> None:
    dns = Dns({"public.example": ((PUBLIC,),)})
    async with staying() as server:
        server.lead_to = "http://public.example/there"
        wires = Wires({(PUBLIC, 80): server})
        async with keeping(kind, wires, dns, follow=False) as transport:
            answer = await _post(transport, "http://public.example/")
    assert (answer.status, answer.redirects) == (302, ())
    assert len(wires.connected) == 1


async def test_closing_the_transport_ends_idle_connections_but_no_request_in_progress(
    kind: Kind,
) -> None:
    dns = Dns({"public.example": ((PUBLIC,),)})
    async with staying() as server:
        wires = Wires({(PUBLIC, 80): server})
        async with keeping(kind, wires, dns) as transport:
            request = kind.library.http.Request("POST", "http://public.example/", content=b"x")
            server.go.clear()
            under_way = await transport.handle_async_request(request)
            await transport.aclose()
            server.go.set()
            assert await under_way.aread() == b"done"
            assert await _tasks(server) == 0
            await _post(transport, "http://public.example/")
            assert server.accepted == 2
        assert await _tasks(server) == 0


async def _tasks(server: Staying) -> int:
    """Return the number of open connections after closed ones were noticed."""
    if server.connections:
        await asyncio.wait(set(server.connections), timeout=5)
    return len(server.connections)
