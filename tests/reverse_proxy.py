"""Small reverse proxy, as nginx: it keeps the path and the `Host` header of a request."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def proxying(port: int, to: int, prefix: str) -> Iterator[list[str]]:
    """Forward requests on ``port`` to the port ``to`` of this machine. Yield their paths.

    Other services have the paths that are not below ``prefix``, so the answer to these is 404.
    """
    paths = list[str]()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            path = head.split(b" ", 2)[1].decode()
            paths.append(path)
            if not path.startswith(f"{prefix}/"):
                writer.write(
                    b"HTTP/1.1 404 Other\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                )
            else:
                back, there = await asyncio.open_connection("127.0.0.1", to)
                first, *lines = head.split(b"\r\n")
                kept = [each for each in lines if not each.lower().startswith(b"connection:")]
                added = [b"X-Forwarded-For: 192.0.2.7", b"Connection: close"]
                there.write(b"\r\n".join([first, *added, *kept]))
                sides = [_copy(reader, there), _copy(back, writer)]
                tasks = [asyncio.ensure_future(each) for each in sides]
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for each in tasks:
                    each.cancel()
                there.close()
        writer.close()

    async def serve() -> None:
        listening = await asyncio.start_server(forward, "127.0.0.1", port)
        started.set()
        async with listening:
            await asyncio.to_thread(ended.wait)

    started, ended = threading.Event(), threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert started.wait(60)
        yield paths
    finally:
        ended.set()
        thread.join()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
