"""A proxy between a ledger and its server that breaks connections where a test says so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Literal

from sqlalchemy.engine import make_url

COMMIT = b"COMMIT;"
"""What the driver sends to commit."""


@dataclass
class Between:
    """A running proxy at ``address``. ``breaks`` says where it breaks the next commit, once.

    ``before``: the server never receives it. ``after``: the server's answer never arrives; ``then``
    is called before the connection is closed.
    """

    address: str
    breaks: Literal["before", "after", ""] = ""
    then: Callable[[], object] = bool
    broken: asyncio.Event = field(default_factory=asyncio.Event)


@asynccontextmanager
async def between(address: str) -> AsyncIterator[Between]:
    """Start a proxy on the way to ``address``; stop listening afterwards."""
    url = make_url(address)
    assert url.host is not None
    assert url.port is not None
    host, port = url.host, url.port

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection(host, port)
        answers = asyncio.create_task(_copy(server_reader, writer))
        try:
            while data := await reader.read(65536):
                breaks = there.breaks if COMMIT in data else ""
                if breaks:
                    there.breaks = ""
                if breaks == "before":
                    break
                if breaks == "after":
                    answers.cancel()
                    with suppress(asyncio.CancelledError):
                        await answers
                server_writer.write(data)
                await server_writer.drain()
                if breaks == "after":
                    assert b"COMMIT" in await server_reader.read(65536)
                    await asyncio.to_thread(there.then)
                    break
        finally:
            answers.cancel()
            server_writer.close()
            writer.close()
            if breaks:
                there.broken.set()

    listening = await asyncio.start_server(pass_on, "127.0.0.1", 0)
    own = listening.sockets[0].getsockname()[1]
    shown = url.set(host="127.0.0.1", port=own).render_as_string(hide_password=False)
    there = Between(shown)
    try:
        yield there
    finally:
        listening.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()
