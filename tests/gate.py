"""Proxy to Prefect that blocks some of the requests for as long as a test needs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import datetime

import httpx

from daybook.clock import SYSTEM_CLOCK


class Gate:
    """Forwards requests to ``api_url`` to the server behind it; `opened` creates one."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._word = b""
        self._open, self.held = asyncio.Event(), asyncio.Event()
        self._open.set()
        self.api_url = ""
        self.asked: list[tuple[datetime, str, str]] = []
        """Time, method and path of each request."""

    def close_for(self, word: str) -> None:
        """Block each request from now on that has ``word`` in its first line, headers or body."""
        self._word = word.encode()
        self._open.clear()
        self.held.clear()

    def release(self) -> None:
        """Forward all blocked requests."""
        self._open.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, its_writer = await asyncio.open_connection(self._host, self._port)
        except OSError:
            writer.close()
            return
        ways = {
            asyncio.create_task(self._pass(reader, its_writer, watched=True)),
            asyncio.create_task(self._pass(there, writer, watched=False)),
        }
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.wait(ways)
            for each in (writer, its_writer):
                each.close()

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, watched: bool
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                if watched:
                    self._note(data)
                if watched and not self._open.is_set() and self._word in data:
                    self.held.set()
                    await self._open.wait()
                writer.write(data)
                await writer.drain()

    def _note(self, data: bytes) -> None:
        words = data.partition(b"\r\n")[0].split()
        if len(words) == 3 and words[2].startswith(b"HTTP/"):
            self.asked.append((SYSTEM_CLOCK.now(), words[0].decode(), words[1].decode()))


@asynccontextmanager
async def opened(api_url: str) -> AsyncIterator[Gate]:
    """Yield an open proxy to the server at ``api_url``."""
    there = httpx.URL(api_url)
    gate = Gate(there.host, there.port or 80)
    connections: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections.add(task)
        try:
            with suppress(asyncio.CancelledError):
                await gate._serve(reader, writer)
        finally:
            connections.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    gate.api_url = str(there.copy_with(port=server.sockets[0].getsockname()[1]))
    try:
        yield gate
    finally:
        server.close()
        for task in list(connections):
            task.cancel()
        if connections:
            await asyncio.wait(connections)
