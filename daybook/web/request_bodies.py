"""Bodies of requests without authentication: the server receives them in bounded memory.

A request counts from its head until the caller has processed its body. If too many bodies are being
received, or all bodies together need too much memory, the slowest one is refused, and its
connection is closed. So a slow sender cannot exhaust the limits for the others.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from starlette.requests import Request

MAX_RECEIVED_BYTES = 2**25
"""Maximum number of bytes that the server reads of a body that is too large, before it answers."""
BODY_TIMEOUT_SECONDS = 10.0
"""Maximum time to receive a body."""
MAX_MEMORY_BYTES = 2**26
"""Maximum of the memory of all bodies."""
MAX_RECEIVING = 200
"""Maximum number of bodies that are being received."""

_LEAD_BYTES = 2**16
"""Lead of each body when speeds are compared: a new request has not sent anything yet."""


class BodyRefused(Exception):
    """A body that the server does not receive. ``status`` is the HTTP status of the answer."""

    def __init__(self, status: int, why: str) -> None:
        self.status, self.why = status, why
        super().__init__(why)


@dataclass(eq=False)
class _ReceivedBody:
    """A body that is being received (``timeout`` is active), or processed."""

    timeout: asyncio.Timeout
    parts: list[bytes] = field(default_factory=list, repr=False)
    size: int = 0
    is_refused: bool = False
    started: float = field(default_factory=time.monotonic)

    @property
    def speed(self) -> float:
        return (self.size + _LEAD_BYTES) / (time.monotonic() - self.started + 1e-3)


class RequestBodies:
    """All bodies that are being received or processed. ``most`` is the maximum size of a body."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._receiving: set[_ReceivedBody] = set()
        self._bytes = 0

    @asynccontextmanager
    async def receive(self, request: Request) -> AsyncIterator[bytes]:
        """Yield the body of ``request``; its memory counts until the block ends.

        Raise `BodyRefused` if the body is too large, does not arrive in time, or is the slowest one
        while a limit is exceeded.
        """
        body = _ReceivedBody(asyncio.timeout(BODY_TIMEOUT_SECONDS))
        try:
            await self._read(request, body)
            yield b"".join(body.parts)
        finally:
            self._remove(body)

    async def _read(self, request: Request, body: _ReceivedBody) -> None:
        """Read the body.

        Read a body that is too large up to `MAX_RECEIVED_BYTES`, but do not keep it. Otherwise the
        sender would get a broken connection and no answer. If `Content-Length` exceeds this limit
        or is not a number, read nothing.
        """
        too_large = BodyRefused(413, f"the body has more than {self.most:,} bytes")
        length = request.headers.get("content-length", "0")
        if not length.isdigit() or int(length[:12]) > MAX_RECEIVED_BYTES:
            raise too_large
        received = 0
        try:
            async with body.timeout:
                self._receiving.add(body)
                self._make_room()
                async for part in request.stream():
                    received += len(part)
                    if received > MAX_RECEIVED_BYTES:
                        raise too_large
                    if received > self.most:
                        self._drop(body)
                    elif not body.is_refused:
                        self._keep(body, part)
        except TimeoutError:
            if not body.is_refused:
                raise BodyRefused(408, "the body took too long") from None
        finally:
            self._receiving.discard(body)
        if body.is_refused:
            raise BodyRefused(503, "too many requests at once")
        if received > self.most:
            raise too_large

    def _keep(self, body: _ReceivedBody, part: bytes) -> None:
        body.parts.append(part)
        body.size += len(part)
        self._bytes += len(part)
        self._make_room()

    def _make_room(self) -> None:
        while self._receiving and (
            self._bytes > MAX_MEMORY_BYTES or len(self._receiving) > MAX_RECEIVING
        ):
            slowest = min(self._receiving, key=lambda each: each.speed)
            self._remove(slowest)
            slowest.is_refused = True
            if not slowest.timeout.expired():
                slowest.timeout.reschedule(asyncio.get_running_loop().time())

    def _remove(self, body: _ReceivedBody) -> None:
        self._receiving.discard(body)
        self._drop(body)

    def _drop(self, body: _ReceivedBody) -> None:
        self._bytes -= body.size
        body.size = 0
        body.parts.clear()
