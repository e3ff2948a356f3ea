"""Connection limits of our own HTTP servers: the web server, MCP over HTTP, and `up`'s Prefect.

::

    connected ──► waits for a head ──► request: receive body, respond ─► waits for a head …
                  `HEAD_TIMEOUT_…`         `BODY_TIMEOUT_SECONDS` for the body,
                  `MAX_WAITING_…`          `WRITE_TIMEOUT_SECONDS` for a client that does not read,
                                           `MAX_REQUESTS`, `MAX_REQUESTS_PER_PEER` (else 503)

uvicorn counts every connection against its limit, and waits forever for the head of a first request
and for a body. So a client that opens a hundred connections and sends nothing would block all other
clients. With these limits, a connection that waits for a head uses no slot for requests. If too
many connections wait, the server selects the address with the most waiting connections. It closes
the connection of that address that has waited longest, but never the newest one.

The Prefect server of `up` has only the limits of a connection (`limited_protocol`), because Prefect
itself decides how many requests it processes at once. An open websocket has no limits.

A stream may stay silent forever. If its peer has disappeared, the operating system closes the
connection some time after data was sent (`TCP_USER_TIMEOUT_SECONDS`).
"""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any, cast

import h11
import uvicorn
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from daybook.processes import garbage

HEAD_TIMEOUT_SECONDS = 10.0
"""Maximum time to receive a head, from the start of the connection or the head's first byte."""
BODY_TIMEOUT_SECONDS = 30.0
"""Maximum time to receive the body of a request, from the end of its head."""
WRITE_TIMEOUT_SECONDS = 60.0
"""Maximum time that a client may stop reading its response when the buffers are full."""
TCP_USER_TIMEOUT_SECONDS = 60
"""Maximum time that sent data may stay unacknowledged, on systems that support this limit."""
KEEP_ALIVE_SECONDS = 75
MAX_HEAD_BYTES = 16_384

MAX_WAITING_CONNECTIONS = 100
"""Maximum number of connections that wait for a head."""
MAX_REQUESTS = 100
"""Maximum number of concurrent requests. Further requests get the status 503."""
MAX_REQUESTS_PER_PEER = 75
"""Maximum number of concurrent requests of one address. Further requests get the status 503."""

TICK_SECONDS = 1.0


class Server(uvicorn.Server):
    """uvicorn's server in a process of its own. After the start, it returns unused memory.

    Its main loop wakes once a second, to update the `Date` header; uvicorn's loop wakes ten times a
    second. A change of ``should_exit``, even in another thread or a signal handler, wakes the loop
    at once.
    """

    _is_stopping = False
    _running: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None

    @property
    def should_exit(self) -> bool:
        """Return whether the server has to stop."""
        return self._is_stopping

    @should_exit.setter
    def should_exit(self, value: bool) -> None:
        self._is_stopping = value
        if self._running is not None:
            loop, changed = self._running
            with suppress(RuntimeError):  # the event loop is closed
                loop.call_soon_threadsafe(changed.set)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        garbage.settle_soon()

    async def main_loop(self) -> None:
        """Serve until the server should exit."""
        changed = asyncio.Event()
        self._running = asyncio.get_running_loop(), changed
        while not await self.on_tick(0):  # `on_tick` updates the `Date` header
            with suppress(TimeoutError):
                async with asyncio.timeout(TICK_SECONDS):
                    await changed.wait()
            # Clear the event before `should_exit` is read, which may have been set back.
            changed.clear()


class SlowClientProtocol(H11Protocol):
    """uvicorn's own protocol, with timeouts and a limit on connections without a request."""

    head, body, unread, waiting = (
        HEAD_TIMEOUT_SECONDS,
        BODY_TIMEOUT_SECONDS,
        WRITE_TIMEOUT_SECONDS,
        MAX_WAITING_CONNECTIONS,
    )
    _head_timer: asyncio.TimerHandle | None = None
    _body_timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None
    _waiting_since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for a head. If too many connections wait for a head, close another one."""
        super().connection_made(transport)
        sock = transport.get_extra_info("socket")
        if sock is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
            sock.setsockopt(
                socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, TCP_USER_TIMEOUT_SECONDS * 1000
            )
        self._waiting_since = self.loop.time()
        self._update_timers()
        self._make_room()

    def data_received(self, data: bytes) -> None:
        """Process ``data`` and update the timers.

        After ``data``, a head or a body may still be incomplete.
        """
        super().data_received(data)
        self._update_timers()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        """Pass the connection to the websocket, and cancel the timers."""
        super().handle_websocket_upgrade(event)
        self._cancel_timers()

    def on_response_complete(self) -> None:
        """Record that the connection waits for the next head from now on."""
        self._waiting_since = self.loop.time()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel all timers."""
        self._cancel_timers()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Start the write timer, because the client does not read its response."""
        super().pause_writing()
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(self.unread, self.transport.abort)

    def resume_writing(self) -> None:
        """Cancel the write timer, because the client reads again."""
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    @property
    def _request(self) -> RequestResponseCycle | None:
        """Return the current request, or None while the connection waits for a head."""
        cycle = cast(RequestResponseCycle | None, self.cycle)  # there is none before the first head
        return None if cycle is None or cycle.response_complete else cycle

    def _cancel_timers(self) -> None:
        for timer in (self._head_timer, self._body_timer, self._write_timer):
            if timer is not None:
                timer.cancel()
        self._head_timer = self._body_timer = self._write_timer = None

    def _update_timers(self) -> None:
        if self.transport.get_protocol() is not self:  # the connection is a websocket now
            return
        request, closing = self._request, self.transport.is_closing()
        if request is not None and self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        if request is None and self._head_timer is None and not closing:
            self._head_timer = self.loop.call_later(self.head, self.transport.abort)
        reads_body = request is not None and request.more_body
        if not reads_body and self._body_timer is not None:
            self._body_timer.cancel()
            self._body_timer = None
        if reads_body and self._body_timer is None and not closing:
            self._body_timer = self.loop.call_later(self.body, self._on_body_timeout)

    def _on_body_timeout(self) -> None:
        self._body_timer = None
        if self.flow.read_paused:
            # We have paused it: the application has not read all received data.
            self._update_timers()
        else:
            self.transport.abort()

    def _make_room(self) -> None:
        if len(self.connections) <= self.waiting:
            return
        waiting = [
            each
            for each in self.connections
            if isinstance(each, SlowClientProtocol)  # a websocket has another protocol
            and each._request is None
            and not each.transport.is_closing()
        ]
        if len(waiting) <= self.waiting:
            return
        of_peer = Counter(peer_key(each.client) for each in waiting)
        candidates = [each for each in waiting if each is not self]
        largest = max(of_peer[peer_key(each.client)] for each in candidates)
        longest = min(
            (each for each in candidates if of_peer[peer_key(each.client)] == largest),
            key=lambda each: each._waiting_since,
        )
        longest.transport.close()


def peer_key(client: tuple[str, int] | None) -> str:
    """Return the key that identifies a client: its IPv4 address, or its 64-bit IPv6 network."""
    return _network_of(client[0] if client else "")


@lru_cache(maxsize=1024)
def _network_of(host: str) -> str:
    try:
        address = ip_address(host)
    except ValueError:
        return host
    if isinstance(address, IPv6Address) and address.ipv4_mapped is None:
        return str(ip_network((address, 64), strict=False))
    return host


class RequestSlots:
    """Slots for requests: ``most`` in total, and at most ``share`` for each client."""

    def __init__(self, most: int, share: int) -> None:
        self._most, self._share = most, share
        self.taken: Counter[str] = Counter()

    @contextmanager
    def slot(self, who: str) -> Iterator[bool]:
        """Use a slot of the client ``who`` while the block runs. Yield False if no slot is free."""
        free = self.taken.total() < self._most and self.taken[who] < self._share
        self.taken[who] += free
        try:
            yield free
        finally:
            self.taken[who] -= free
            if not self.taken[who]:
                del self.taken[who]


class RequestLimit:
    """ASGI middleware that allows ``most`` concurrent requests, and ``share`` from one client.

    Requests for paths that ``has_own_limits`` accepts do not count.
    """

    def __init__(
        self,
        application: ASGIApp,
        most: int = MAX_REQUESTS,
        share: int = MAX_REQUESTS_PER_PEER,
        has_own_limits: Callable[[str], bool] = lambda path: False,
    ) -> None:
        self._application, self._slots = application, RequestSlots(most, share)
        self._has_own_limits = has_own_limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self._has_own_limits(scope["path"]):
            await self._application(scope, receive, send)
            return
        with self._slots.slot(peer_key(scope.get("client"))) as free:
            if free:
                await self._application(scope, receive, send)
                return
        await unavailable("too many requests at once")(scope, receive, send)


def unavailable(why: str, status: int = 503) -> PlainTextResponse:
    """Return the response to a request that exceeds a limit. ``why`` is its text."""
    headers = {"connection": "close", "retry-after": "1", "cache-control": "no-store"}
    return PlainTextResponse(f"{why}\n", status, headers)


def limited_protocol(
    head: float = HEAD_TIMEOUT_SECONDS,
    body: float = BODY_TIMEOUT_SECONDS,
    waiting: int = MAX_WAITING_CONNECTIONS,
) -> type[SlowClientProtocol]:
    """Return a server's protocol for `uvicorn.Config`, with timeouts in seconds."""
    return type("Limited", (SlowClientProtocol,), {"head": head, "body": body, "waiting": waiting})


def server_config(
    application: ASGIApp,
    *,
    most: int = MAX_REQUESTS,
    head: float = HEAD_TIMEOUT_SECONDS,
    body: float = BODY_TIMEOUT_SECONDS,
    waiting: int = MAX_WAITING_CONNECTIONS,
    graceful: int,
    has_own_limits: Callable[[str], bool] = lambda path: False,
    **more: Any,
) -> uvicorn.Config:
    """Return the configuration of a server with these limits and without an access log.

    ``graceful`` is the timeout of a shutdown in seconds. `RequestLimit` documents
    ``has_own_limits``.
    """
    return uvicorn.Config(
        RequestLimit(application, most, min(most, MAX_REQUESTS_PER_PEER), has_own_limits),
        http=limited_protocol(head, body, waiting),
        ws="none",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=graceful,
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        **more,
    )
