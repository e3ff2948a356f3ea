"""The proxy of a sandbox: which hosts a program reaches through it, and which it does not."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import pytest

from daybook.errors import InvalidInput
from daybook.http.guard import AllowedHosts, Guard, Rule
from daybook.http.host_proxy import MAX_REFUSED, HostProxy
from daybook.policies.sandboxes import HostPattern
from tests import receiver, rows
from tests.unit.http.tricks import PRIVATE, PUBLIC, Answers, Dns

pytestmark = pytest.mark.anyio

HOSTS = ("listed.test", "*.wild.test", "port.test:8443", "192.0.2.7", "moves.test", "mixed.test")


@dataclass
class Network:
    """A proxy with a network in which each public address leads to ``server``."""

    proxy: HostProxy
    server: receiver.Receiver
    dns: Dns
    port: int
    connected: list[tuple[str, int]]

    async def ask(self, head: str) -> bytes:
        """Send the head of a request to the proxy, and return what it answers."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(head.encode("latin-1") + b"\r\n\r\n")
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return answer

    async def status(self, head: str) -> int:
        return int((await self.ask(head)).split()[1])


@asynccontextmanager
async def network(
    answers: dict[str, Answers] | None = None, allowed: str = ""
) -> AsyncIterator[Network]:
    known: dict[str, Answers] = {
        "listed.test": ((PUBLIC,),),
        "a.wild.test": ((PUBLIC,),),
        "port.test": ((PUBLIC,),),
    }
    dns = Dns(known | (answers or {}))
    connected: list[tuple[str, int]] = []
    async with receiver.serving() as server:

        async def connect(
            host: str, port: int
        ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            connected.append((host, port))
            return await asyncio.open_connection("127.0.0.1", server.port)

        guard = Guard(Rule.AGENT, AllowedHosts.parse(allowed), dns)
        proxy = HostProxy(tuple(map(HostPattern.parse, HOSTS)), guard, connect)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            task = asyncio.create_task(proxy.serve(listener))
            yield Network(proxy, server, dns, listener.getsockname()[1], connected)
            task.cancel()
            await asyncio.wait({task})


async def test_a_request_reaches_a_listed_host() -> None:
    async with network() as here:
        head = "GET http://Listed.test/a?b=1#c HTTP/1.1\r\nHost: other.test\r\nProxy-X: 1\r\nX: 2"
        answer = await here.ask(head)
        [request] = here.server.requests
    assert answer.endswith(b"done")
    assert (request.method, request.path) == ("GET", "/a?b=1")
    assert request.headers == {"host": "Listed.test", "connection": "close", "x": "2"}
    assert here.connected == [(PUBLIC, 80)]
    assert not here.proxy.refused


async def test_a_tunnel_reaches_a_listed_host() -> None:
    async with network() as here:
        reader, writer = await asyncio.open_connection("127.0.0.1", here.port)
        writer.write(b"CONNECT listed.test:443 HTTP/1.1\r\n\r\n")
        assert (await reader.readuntil(b"\r\n\r\n")).split()[1] == b"200"
        writer.write(b"GET /inside HTTP/1.1\r\n\r\n")
        assert (await reader.read()).endswith(b"done")
        writer.close()
        await writer.wait_closed()
        assert here.server.requests[0].path == "/inside"
    assert here.connected == [(PUBLIC, 443)]


async def test_a_listed_host_is_recognized() -> None:
    async with network() as here:
        for place, trying in rows.each(
            ["LISTED.test:443", "listed.test.:443", "a.wild.test:443", "port.test:8443"]
        ):
            with trying:
                reader, writer = await asyncio.open_connection("127.0.0.1", here.port)
                writer.write(f"CONNECT {place} HTTP/1.1\r\n\r\n".encode())
                assert (await reader.readuntil(b"\r\n\r\n")).split()[1] == b"200"
                writer.close()
                await writer.wait_closed()


OTHERS = (
    "other.test:443",
    "listed.test.other.test:443",
    "notlisted.test:443",
    "wild.test:443",
    "awild.test:443",
    "listed.test:22",
    "listed.test:8443",
    "port.test:443",
    "127.0.0.1:443",
    "[::1]:443",
    "localhost:443",
    "169.254.169.254:80",
    "metadata.google.internal:80",
    "2130706433:443",
    "0x7f.1:443",
    "[::ffff:127.0.0.1]:443",
    "secret-data.exfiltration.test:443",
)


async def test_another_host_is_refused_before_its_name_is_resolved() -> None:
    async with network() as here:
        for place, trying in rows.each(OTHERS):
            with trying:
                assert await here.status(f"CONNECT {place} HTTP/1.1") == 403
                assert await here.status(f"GET http://{place}/ HTTP/1.1") == 403
                assert here.proxy.refused[place] == "it is not in the list of hosts"
        assert here.dns.asked == []
        assert here.connected == []


async def test_a_listed_name_does_not_lead_to_a_private_address() -> None:
    answers: dict[str, Answers] = {
        "moves.test": (
            (PUBLIC,),
            (PRIVATE,),
        ),
        "mixed.test": ((PUBLIC, "127.0.0.1"),),
        "a.wild.test": (("169.254.169.254",),),
        "b.wild.test": (("::1",),),
        "c.wild.test": (("::ffff:10.0.0.1",),),
        "d.wild.test": (("100.100.100.200",),),
    }
    async with network(answers) as here:
        assert (await here.ask("GET http://moves.test/ HTTP/1.1")).endswith(b"done")
        for name, trying in rows.each([*answers, "192.0.2.7"]):
            with trying:
                assert await here.status(f"CONNECT {name}:443 HTTP/1.1") == 403
                assert await here.status(f"GET http://{name}/ HTTP/1.1") == 403
        assert here.connected == [(PUBLIC, 80)]
        assert "private network" in here.proxy.refused["moves.test:443"]


async def test_the_operator_can_allow_a_private_host() -> None:
    async with network({"moves.test": (("127.0.0.1",),)}, allowed="moves.test") as here:
        assert (await here.ask("GET http://moves.test/ HTTP/1.1")).endswith(b"done")


async def test_a_redirect_to_a_private_address_is_refused() -> None:
    async with network() as here:
        here.server.steps = [receiver.redirect("http://127.0.0.1/secret")]
        answer = await here.ask("GET http://listed.test/ HTTP/1.1")
        assert b"Location: http://127.0.0.1/secret" in answer
        assert await here.status("GET http://127.0.0.1/secret HTTP/1.1") == 403


async def test_what_is_no_request_of_a_proxy_is_refused() -> None:
    async with network() as here:
        for head, trying in rows.each(
            [
                "GET / HTTP/1.1\r\nHost: listed.test",
                "GET https://listed.test/ HTTP/1.1",
                "GET ftp://listed.test/ HTTP/1.1",
                "GET file:///etc/passwd HTTP/1.1",
                "GET http://user:secret@listed.test/ HTTP/1.1",
                "CONNECT user@listed.test:443 HTTP/1.1",
                "CONNECT listed.test:99999 HTTP/1.1",
                "CONNECT listed.test:443 HTTP/2",
                "CONNECT listed.test:443",
                "GET http://[::1/ HTTP/1.1",
                "nonsense",
            ]
        ):
            with trying:
                assert await here.status(head) == 400
        assert here.connected == []


async def test_an_unknown_or_unreachable_host_is_a_bad_gateway() -> None:
    async with network() as here:
        assert await here.status("CONNECT unknown.wild.test:443 HTTP/1.1") == 502

        async def connect(
            host: str, port: int
        ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            raise ConnectionRefusedError("refused")

        here.proxy.connect = connect
        assert await here.status("CONNECT listed.test:443 HTTP/1.1") == 502
        assert not here.proxy.refused


async def refuse(host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    raise ConnectionRefusedError(f"{host}:{port}")


async def test_the_refused_hosts_are_bounded() -> None:
    async with network() as here:
        for number in range(MAX_REFUSED + 5):
            assert await here.status(f"CONNECT host{number}.test:443 HTTP/1.1") == 403
        assert len(here.proxy.refused) == MAX_REFUSED


async def test_an_endless_head_ends_the_connection() -> None:
    async with network() as here:
        with suppress(ConnectionResetError):
            assert not await here.ask(f"GET http://listed.test/ HTTP/1.1\r\nX: {'x' * 200_000}")
        assert here.connected == []


INVALID = ("", "*", "*.", "a.*.test", "http://a.test", "a.test/x", "a:b", "u@a")


@pytest.mark.parametrize("text", INVALID)
def test_an_invalid_host_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="is not a host"):
        HostPattern.parse(text)
