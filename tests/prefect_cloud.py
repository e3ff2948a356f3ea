"""A stand-in for Prefect Cloud: a real Prefect server below the path of a workspace, over TLS.

It demands an API key in the header `Authorization: Bearer`, and has none of the pages that only a
server of one's own has (`/admin`, `/ui-settings`, `/csrf-token`). The server behind it has to
accept the API key as its credential, because two websockets get the key in a message.
"""

from __future__ import annotations

import asyncio
import base64
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

WORKSPACE = "/api/accounts/0a1b2c3d/workspaces/4e5f6a7b"
_ABSENT = ("/admin/", "/ui-settings", "/csrf-token")
_EMPTY = "Content-Length: 0\r\nConnection: close\r\n\r\n"


@dataclass
class Cloud:
    """The stand-in on ``port``; ``keys`` are the API keys that it accepts."""

    port: int
    keys: set[str]
    paths: list[str] = field(default_factory=list)
    """Paths below the workspace, of the accepted requests."""
    refused: list[str] = field(default_factory=list)
    """Status and path of the other requests."""

    def environment(self, key: str, authority: Path | None) -> dict[str, str]:
        """Return the variables of a user of this Cloud."""
        return {
            "PREFECT_CLOUD_API_URL": f"https://localhost:{self.port}/api",
            "PREFECT_API_URL": f"https://localhost:{self.port}{WORKSPACE}",
            "PREFECT_API_KEY": key,
            **({"PREFECT_API_SSL_CERT_FILE": str(authority)} if authority else {}),
        }

    async def forward(
        self, to: int, credential: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Answer one request, by the Prefect on the port ``to`` if it is accepted."""
        with suppress(ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            head = (await reader.readuntil(b"\r\n\r\n"))[:-4]
            first, *lines = head.decode().split("\r\n")
            headers = {each.partition(":")[0].lower(): each.partition(": ")[2] for each in lines}
            method, path, version = first.split(" ")
            if refusal := self._refusal(path, headers):
                self.refused.append(f"{refusal[:3]} {path}")
                writer.write(f"HTTP/1.1 {refusal}\r\n{_EMPTY}".encode())
                await writer.drain()
            else:
                below = path.removeprefix(WORKSPACE)
                self.paths.append(below)
                own = ("authorization:", "connection:")
                kept = [each for each in lines if not each.lower().startswith(own)]
                basic = base64.b64encode(credential.encode()).decode()
                connection = "Upgrade" if "upgrade" in headers else "close"
                kept += [f"Authorization: Basic {basic}", f"Connection: {connection}"]
                back, there = await asyncio.open_connection("127.0.0.1", to)
                sent = "\r\n".join([f"{method} /api{below} {version}", *kept])
                there.write(f"{sent}\r\n\r\n".encode())
                sides = [_copy(reader, there), _copy(back, writer)]
                tasks = [asyncio.ensure_future(each) for each in sides]
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for each in tasks:
                    each.cancel()
                there.close()
        writer.close()

    def _refusal(self, path: str, headers: dict[str, str]) -> str:
        """Return the status that refuses the request; "" if it is accepted."""
        below = path.removeprefix(WORKSPACE)
        if path == below or below.startswith(_ABSENT):
            return "404 Not Found"
        scheme, _, key = headers.get("authorization", "").partition(" ")
        is_known = scheme.lower() == "bearer" and key in self.keys
        is_known |= below.startswith("/events/out") or below.endswith("/workers/connect")
        return "" if is_known else "401 Unauthorized"


@contextmanager
def serving(port: int, to: int, credential: str, pem: Path) -> Iterator[Cloud]:
    """Serve on ``port`` the Prefect on the port ``to``, whose ``credential`` is the API key.

    The file ``pem`` has the certificate and its key.
    """
    cloud = Cloud(port, {credential})

    async def serve() -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem)
        forward = partial(cloud.forward, to, credential)
        listening = await asyncio.start_server(forward, "127.0.0.1", port, ssl=context)
        started.set()
        async with listening:
            await asyncio.to_thread(ended.wait)

    started, ended = threading.Event(), threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert started.wait(60)
        yield cloud
    finally:
        ended.set()
        thread.join()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError, ssl.SSLError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
