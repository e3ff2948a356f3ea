"""HTTP proxy that lets a sandboxed program reach the hosts of a list, and no others.

The proxy compares the name that the program requests with the list before it resolves the name, so
a name cannot carry data out. The guard then checks the addresses of the name, and the proxy
connects to a checked address. So no name leads to an address that the guard refuses, not even one
whose address changes. The program's TLS connection ends at the host: the proxy does not see what it
contains. So a host of the list that serves several names can be asked for the others.

A request for `https` begins with `CONNECT`. A connection for plain `http` has one request.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from daybook.errors import DaybookError
from daybook.http.addresses import DEFAULT_PORTS
from daybook.http.guard import Guard, Target
from daybook.policies.sandboxes import HostPattern

MAX_CONNECTIONS = 256
"""Maximum number of connections of a sandbox at the same time; further ones wait."""
MAX_REFUSED = 100
"""Maximum number of refused hosts that a proxy remembers."""
MAX_HEAD_BYTES = 65536
_HEAD_TIMEOUT_SECONDS = 30.0
_CONNECT_TIMEOUT_SECONDS = 15.0
_OF_THE_HOP = ("connection", "host", "keep-alive", "upgrade")
"""Headers that the proxy replaces or drops."""

Connect = Callable[[str, int], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


class _Refused(Exception):
    """The proxy answers with an HTTP status instead of a connection."""

    def __init__(self, status: str, why: str) -> None:
        self.status, self.why = status, why
        super().__init__(why)


@dataclass
class HostProxy:
    """Proxy for one run. ``refused`` maps each refused `host:port` to the reason.

    ``connect`` opens a connection to an IP address.
    """

    hosts: tuple[HostPattern, ...]
    guard: Guard
    connect: Connect = asyncio.open_connection
    refused: dict[str, str] = field(default_factory=dict)

    async def serve(self, listener: socket.socket) -> None:
        """Serve the connections that arrive at ``listener`` until the call is cancelled."""
        listener.setblocking(False)
        loop = asyncio.get_running_loop()
        places = asyncio.Semaphore(MAX_CONNECTIONS)
        tasks = set[asyncio.Task[None]]()
        try:
            while True:
                await places.acquire()
                connection, _ = await loop.sock_accept(listener)
                task = asyncio.create_task(self._handle(connection))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                task.add_done_callback(lambda _: places.release())
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _handle(self, connection: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=connection, limit=MAX_HEAD_BYTES)
        upstream: asyncio.StreamWriter | None = None
        try:
            try:
                async with asyncio.timeout(_HEAD_TIMEOUT_SECONDS):
                    head = await reader.readuntil(b"\r\n\r\n")
                request = _ProxyRequest.parse(head)
                answers, upstream = await self._open(request)
            except _Refused as error:
                writer.write(_answer(error))
                await writer.drain()
                return
            if request.opening:
                upstream.write(request.opening)
            else:
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await asyncio.gather(_copy(reader, upstream), _copy(answers, writer))
        except (OSError, EOFError, TimeoutError, asyncio.LimitOverrunError):
            pass  # one of the two has closed its connection
        finally:
            for each in (writer, upstream):
                if each is not None:
                    each.close()

    async def _open(
        self, request: _ProxyRequest
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Return a connection to a checked address of the requested host."""
        place = request.place
        if not any(each.allows(request.name, request.port) for each in self.hosts):
            raise self._refuse(place, "it is not in the list of hosts")
        try:
            target = await self.guard.target(f"{request.scheme}://{place}")
        except OSError as error:
            raise _Refused("502 Bad Gateway", f"cannot resolve {place}: {error}") from None
        except DaybookError as error:
            raise self._refuse(place, str(error)) from None
        try:
            return await self._connect(target)
        except (OSError, TimeoutError) as error:
            raise _Refused("502 Bad Gateway", f"cannot connect to {place}: {error}") from None

    async def _connect(self, target: Target) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        within = _CONNECT_TIMEOUT_SECONDS / len(target.addresses)
        for each in target.addresses[:-1]:
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(within):
                    return await self.connect(each, target.port)
        async with asyncio.timeout(within):
            return await self.connect(target.addresses[-1], target.port)

    def _refuse(self, place: str, why: str) -> _Refused:
        if len(self.refused) < MAX_REFUSED:
            self.refused.setdefault(place, why)
        return _Refused("403 Forbidden", f"Daybook's sandbox refuses {place}: {why}")


@dataclass(frozen=True)
class _ProxyRequest:
    """Head of a request. ``opening`` is what the host gets first, empty for a tunnel."""

    scheme: str
    name: str
    port: int
    opening: bytes = b""

    @property
    def place(self) -> str:
        return f"{f'[{self.name}]' if ':' in self.name else self.name}:{self.port}"

    @classmethod
    def parse(cls, head: bytes) -> _ProxyRequest:
        """Parse a head that ends with an empty line. Raise `_Refused` if it is malformed."""
        first, *lines = head.decode("latin-1").split("\r\n")[:-2]
        try:
            method, address, version = first.split(" ")
            tunnel = method == "CONNECT"
            parts = urlsplit(f"https://{address}" if tunnel else address)
            name, port = (parts.hostname or "").lower().removesuffix("."), parts.port
            known = parts.scheme == ("https" if tunnel else "http")
        except ValueError:
            known = False
        if not known or not name or parts.username is not None or not version.startswith("HTTP/1."):
            raise _Refused("400 Bad Request", "this is a proxy for http and https only")
        port = DEFAULT_PORTS[parts.scheme] if port is None else port
        if tunnel:
            return cls("https", name, port)
        path = parts._replace(scheme="", netloc="", fragment="").geturl() or "/"
        kept = [
            each for each in lines if not _is_of_the_hop(each.partition(":")[0].strip().lower())
        ]
        request = [f"{method} {path if path.startswith('/') else f'/{path}'} HTTP/1.1"]
        request += [f"Host: {parts.netloc}", "Connection: close", *kept, "", ""]
        return cls("http", name, port, "\r\n".join(request).encode("latin-1"))


def _is_of_the_hop(header: str) -> bool:
    return header in _OF_THE_HOP or header.startswith("proxy-")


def _answer(error: _Refused) -> bytes:
    body = f"{error.why}\n".encode()
    head = f"HTTP/1.1 {error.status}\r\nContent-Type: text/plain; charset=utf-8\r\n"
    return f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while part := await reader.read(65536):
        writer.write(part)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()
