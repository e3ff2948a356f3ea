"""Real servers on localhost, and a network that routes other addresses to them.

A `Receiver` handles each request as the test says, byte by byte. `Wires` is the network below a
`GuardedTransport`: a connection to a registered address goes to a server, any other is refused, and
the targets of all connections are recorded.
"""

from __future__ import annotations

import asyncio
import ssl
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import httpcore
import httpcore2

from daybook.clock import SYSTEM_CLOCK

MEBIBYTE = 2**20


@dataclass(frozen=True)
class Request:
    """A request; header names are lowercase."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


Handler = Callable[[Request, asyncio.StreamWriter], Awaitable[None]]


class Receiver:
    """Server that executes its steps one after the other and repeats the last one.

    ``left`` is set when the client has closed a connection; ``names`` are the requested TLS names.
    """

    def __init__(self) -> None:
        self.steps: list[Handler] = [answer(200)]
        self.requests: list[Request] = []
        self.names: list[str | None] = []
        self.left = asyncio.Event()
        self.port = 0
        self.connections: set[asyncio.Task[None]] = set()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def address(self) -> str:
        return f"http://{self.host}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.connections.add(task)
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                await self._serve(reader, writer)
            writer.close()
            with suppress(ConnectionError, ssl.SSLError):
                await writer.wait_closed()
        finally:
            writer.transport.abort()
            self.connections.discard(task)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.strip().split("\r\n")
        method, path, _ = first.split(" ")
        pairs = (line.split(":", 1) for line in lines)
        headers = {name.lower(): value.strip() for name, value in pairs}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        self.requests.append(Request(method, path, headers, body))
        step = self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]
        disconnect = asyncio.ensure_future(reader.read())
        work = asyncio.ensure_future(step(self.requests[-1], writer))
        try:
            await asyncio.wait({disconnect, work}, return_when=asyncio.FIRST_COMPLETED)
            if disconnect.done():
                self.left.set()
        finally:
            for task in (disconnect, work):
                task.cancel()
            await asyncio.gather(disconnect, work, return_exceptions=True)


@asynccontextmanager
async def serving(context: ssl.SSLContext | None = None) -> AsyncIterator[Receiver]:
    """Yield a server that listens until the context ends."""
    receiver = Receiver()
    if context is not None:
        context.sni_callback = lambda _, name, __: receiver.names.append(name)
    listening = await asyncio.start_server(receiver.serve, "127.0.0.1", 0, ssl=context)
    receiver.port = listening.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        listening.close()
        for task in receiver.connections:
            task.cancel()
        await asyncio.gather(*receiver.connections, return_exceptions=True)


def head(status: int = 200, headers: Mapping[str, str] | None = None) -> bytes:
    all_headers = {"Connection": "close"} | dict(headers or {})
    lines = [
        f"HTTP/1.1 {status} Scripted",
        *(f"{name}: {value}" for name, value in all_headers.items()),
    ]
    return "\r\n".join([*lines, "", ""]).encode()


def answer(
    status: int = 200, body: bytes = b"done", headers: Mapping[str, str] | None = None
) -> Handler:
    async def step(_: Request, writer: asyncio.StreamWriter) -> None:
        length = {"Content-Length": str(len(body))} | dict(headers or {})
        writer.write(head(status, length) + (b"" if _.method == "HEAD" else body))
        await writer.drain()

    return step


def redirect(where: str, status: int = 302) -> Handler:
    return answer(status, b"", {"Location": where})


def raw(text: bytes) -> Handler:
    """Return a handler that sends these bytes and closes the connection."""

    async def step(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(text)
        await writer.drain()

    return step


def cut(body: bytes = b"the first ha", status: int = 200) -> Handler:
    """Return a handler whose body ends before its declared length."""
    return raw(head(status, {"Content-Length": "1000"}) + body)


async def hang(_: Request, writer: asyncio.StreamWriter) -> None:
    """Send no answer while the client waits."""
    await asyncio.Event().wait()


def drip(first: bytes) -> Handler:
    """Return a handler that sends ``first``, and then a byte every few milliseconds, for ever."""

    async def step(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(first)
        while True:
            writer.write(b"x")
            await writer.drain()
            await SYSTEM_CLOCK.wait_until(SYSTEM_CLOCK.now() + timedelta(milliseconds=5))

    return step


@dataclass
class Flood:
    """A body of ``total`` bytes, made while it is read; ``sent`` counts the bytes read so far."""

    total: int
    content_type: str = "text/plain"
    sent: int = 0

    async def __call__(self, _: Request, writer: asyncio.StreamWriter) -> None:
        part = b"x" * 65536
        about = {"Content-Length": str(self.total), "Content-Type": self.content_type}
        writer.write(head(200, about))
        while self.sent < self.total:
            writer.write(part)
            await writer.drain()
            self.sent += len(part)


def bomb(mebibytes: int) -> Iterable[bytes]:
    """Yield a gzip file of that many mebibytes of zeros, in parts of about a kibibyte."""
    made = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    yield made.compress(bytes(MEBIBYTE)) + made.flush(zlib.Z_FULL_FLUSH)
    part = made.compress(bytes(MEBIBYTE)) + made.flush(zlib.Z_FULL_FLUSH)
    for _ in range(mebibytes - 1):
        yield part


def sends(parts: Iterable[bytes], headers: Mapping[str, str]) -> Handler:
    """Return a handler that sends the parts at once."""

    async def step(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(head(200, headers))
        for part in parts:
            writer.write(part)
            await writer.drain()

    return step


class Wires(  # type: ignore[misc]  # one double for the backends of both libraries
    httpcore.AsyncNetworkBackend, httpcore2.AsyncNetworkBackend
):
    """Network double: ``laid`` maps an address and port to a server; ``connected`` lists attempts.

    ``core`` is the library that connects, `httpcore` or `httpcore2`.
    """

    def __init__(self, laid: Mapping[tuple[str, int], Receiver], core: Any = httpcore) -> None:
        self._laid = laid
        self.core = core
        self.connected: list[tuple[str, int]] = []

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> Any:
        self.connected.append((host, port))
        if (host, port) not in self._laid:
            raise self.core.ConnectError(f"no server at {host}")
        real = self.core.AnyIOBackend()
        return await real.connect_tcp("127.0.0.1", self._laid[host, port].port, timeout)
