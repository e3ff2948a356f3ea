"""Limits on the connections of our own HTTP servers: the health page, and MCP over HTTP.

::

    connected ──► waits for a head ──► request: body comes, answer is made ──► waits for a head …
                  `HEAD` seconds,           `BODY` seconds for the body,
                  `WAITING` connections     `UNREAD` for an answer that nobody reads,
                                            `MOST` requests, `PEER` of them of one address (503)

uvicorn counts every connection against its limit, and waits without end for the head of a first
request and for a body. So a client that opens a hundred connections and sends nothing would keep
all others out. Here a connection that waits for a head takes no request's place: if too many wait,
the one that has waited longest is closed, of the address that has the most.

A stream on which nothing is sent may be silent for ever; that its other side has gone is seen by
the signs of life that the system sends (`VANISHED`).
"""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any, cast

import uvicorn
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

HEAD = 10.0
"""Seconds for the head of a request: from the connection's beginning, or from the next head's."""
BODY = 30.0
"""Seconds for the body of a request, from its head on."""
UNREAD = 60.0
"""Seconds after which a client that does not read its answer is cut off, once no more is taken."""
VANISHED = 60
"""Seconds after which one that acknowledges nothing is gone; where the system has that."""
KEEP_ALIVE = 75
LONGEST_HEAD = 16_384

WAITING = 100
"""How many connections may wait for a head."""
MOST = 100
"""How many requests may be in progress; one more is answered 503."""
PEER = 75
"""How many of them may be of one address; one more is answered 503."""


class Connection(H11Protocol):
    """uvicorn's own protocol with deadlines, and a bound for connections without a request."""

    head, body, unread, waiting = HEAD, BODY, UNREAD, WAITING
    _head_timer: asyncio.TimerHandle | None = None
    _body_timer: asyncio.TimerHandle | None = None
    _unread_timer: asyncio.TimerHandle | None = None
    _since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for a head, and close another connection if too many do."""
        super().connection_made(transport)
        wire = transport.get_extra_info("socket")
        if wire is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
            wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, VANISHED * 1000)
        self._since = self.loop.time()
        self._watch()
        self._make_room()

    def data_received(self, data: bytes) -> None:
        """Take ``data`` and watch what is incomplete: a body or the head of a request."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """Wait for the next head."""
        self._since = self.loop.time()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Watch nothing any more."""
        for timer in (self._head_timer, self._body_timer, self._unread_timer):
            if timer is not None:
                timer.cancel()
        self._head_timer = self._body_timer = self._unread_timer = None
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The client does not read what it was sent."""
        super().pause_writing()
        if self._unread_timer is None:
            self._unread_timer = self.loop.call_later(self.unread, self.transport.abort)

    def resume_writing(self) -> None:
        """The client reads it."""
        super().resume_writing()
        if self._unread_timer is not None:
            self._unread_timer.cancel()
            self._unread_timer = None

    @property
    def _request(self) -> RequestResponseCycle | None:
        """The one in progress."""
        cycle = cast(RequestResponseCycle | None, self.cycle)  # none before the first head
        return None if cycle is None or cycle.response_complete else cycle

    def _watch(self) -> None:
        request, closing = self._request, self.transport.is_closing()
        if request is not None and self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        if request is None and self._head_timer is None and not closing:
            self._head_timer = self.loop.call_later(self.head, self.transport.abort)
        comes = request is not None and request.more_body
        if not comes and self._body_timer is not None:
            self._body_timer.cancel()
            self._body_timer = None
        if comes and self._body_timer is None and not closing:
            self._body_timer = self.loop.call_later(self.body, self._body_is_late)

    def _body_is_late(self) -> None:
        self._body_timer = None
        if self.flow.read_paused:  # by us: the application has not taken what has come
            self._watch()
        else:
            self.transport.abort()

    def _make_room(self) -> None:
        connections = cast(set[Connection], self.connections)
        waits = [
            each
            for each in connections
            if each._request is None and not each.transport.is_closing()
        ]
        if len(waits) <= self.waiting:
            return
        of_peer = Counter(peer(each.client) for each in waits)
        others = [each for each in waits if each is not self]
        crowd = max(of_peer[peer(each.client)] for each in others)
        longest = min(
            (each for each in others if of_peer[peer(each.client)] == crowd),
            key=lambda each: each._since,
        )
        longest.transport.close()


def peer(client: tuple[str, int] | None) -> str:
    """Return the key of a client: its IPv4 address, or its IPv6 network of 64 bits."""
    host = client[0] if client else ""
    try:
        address = ip_address(host)
    except ValueError:
        return host
    if isinstance(address, IPv6Address) and address.ipv4_mapped is None:
        return str(ip_network((address, 64), strict=False))
    return host


class Places:
    """Places for ``most`` at once, at most ``share`` of them for any one who asks."""

    def __init__(self, most: int, share: int) -> None:
        self._most, self._share = most, share
        self.taken: Counter[str] = Counter()

    @contextmanager
    def place(self, who: str) -> Iterator[bool]:
        """Whether there was one; it is taken while the block runs."""
        free = self.taken.total() < self._most and self.taken[who] < self._share
        self.taken[who] += free
        try:
            yield free
        finally:
            self.taken[who] -= free
            if not self.taken[who]:
                del self.taken[who]


class Bounded:
    """ASGI middleware: `MOST` requests at once, `PEER` of one address."""

    def __init__(self, application: ASGIApp, most: int = MOST, share: int = PEER) -> None:
        self._application, self._places = application, Places(most, share)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        with self._places.place(peer(scope.get("client"))) as free:
            if free:
                await self._application(scope, receive, send)
                return
        await full("too many requests at once")(scope, receive, send)


def full(why: str, status: int = 503) -> PlainTextResponse:
    """The answer where no place is free."""
    headers = {"connection": "close", "retry-after": "1", "cache-control": "no-store"}
    return PlainTextResponse(f"{why}\n", status, headers)


def config(
    application: ASGIApp,
    *,
    most: int = MOST,
    head: float = HEAD,
    body: float = BODY,
    waiting: int = WAITING,
    graceful: int,
    **more: Any,
) -> uvicorn.Config:
    """That of a server with these limits, which says nothing of itself and logs no requests."""
    limits = {"head": head, "body": body, "waiting": waiting}
    return uvicorn.Config(
        Bounded(application, most, min(most, PEER)),
        http=type("Limited", (Connection,), limits),
        ws="none",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=graceful,
        h11_max_incomplete_event_size=LONGEST_HEAD,
        **more,
    )
