"""Live updates: streams of server-sent events that report changes of the pages.

::

    GET /live ──► one `_Stream` a viewer ◄── wakes ── poller: `api.changes.read`, once a second
                      │ data: <version>                  │ runs only while there are streams
                      ▼
    live.js requests its page again ──► `SharedPages`: rendered once a version, for all viewers

An event contains only the version, and a stream stores only the last version. So a viewer that does
not read its events needs no more memory than others. The version changes when the data of the pages
changes in the ledger. It also changes each minute, because some parts of the pages depend on the
time: "in 5 min", the line "now", expired sessions.

A stream ends when its session ends (logout, expiry, revocation of its link), when the server stops,
or when the client disconnects. If a client vanishes, the system notices this within a minute,
because a stream sends a comment every `HEARTBEAT_SECONDS`. Streams have limits of their own, and
use none of the server's slots for requests (`operations.connections`).
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from daybook.api.changes import Changes
from daybook.errors import DaybookError
from daybook.operations import connections
from daybook.web.login import Admitted

log = logging.getLogger(__name__)

PATH = "/live"
HEADER = "x-daybook-live"
"""Header of the request by which a page loads itself again."""
POLL_INTERVAL_SECONDS = 1.0
HEARTBEAT_SECONDS = 15.0
LINGER_SECONDS = 5.0
"""Time for which the poller continues without a viewer, as between two pages of one browser."""
MAX_STREAMS = 60
MAX_STREAMS_PER_SESSION = 10
MAX_STREAMS_PER_LINK = 20
"""Maximum number of streams of all sessions of a shared link: each opening starts a new session."""
MAX_STREAMS_OF_LINKS = 40
"""Maximum number of streams of all shared links. The other streams are for the operator."""
MAX_SHARED_PAGES = MAX_STREAMS

_HEAD = (
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # without this header, nginx would buffer the events
)


@dataclass(eq=False)
class _Stream:
    """The stream of one viewer. ``wake`` is set when the stream must send a version, or end."""

    viewer: Admitted
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    sent: str = ""
    is_closed: bool = False

    def close(self) -> None:
        self.is_closed = True
        self.wake.set()


class LiveUpdates:
    """ASGI application of the streams. ``read`` returns a summary of the data that the pages show.

    ``version`` is empty while the poller does not run. ``clock`` returns seconds since the epoch.
    """

    def __init__(
        self, read: Callable[[], Awaitable[Changes]], clock: Callable[[], float] = time.time
    ) -> None:
        self._read, self._clock = read, clock
        self._streams: set[_Stream] = set()
        self.poller: asyncio.Task[None] | None = None
        self._last_left = 0.0
        self._last_text = ""
        self._is_closing = False
        self.version = ""
        self.shared = SharedPages()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        stream = _Stream(scope["daybook"])
        if (why := self._no_room_for(stream)) is not None:
            await connections.unavailable(why)(scope, receive, send)
            return
        if scope["method"] == "HEAD":
            await Response(headers={"content-type": "text/event-stream"})(scope, receive, send)
            return
        self._streams.add(stream)
        if self.poller is None:
            self.poller = asyncio.create_task(self._poll())
        tasks = {
            asyncio.create_task(self._write(stream, send)),
            asyncio.create_task(_disconnected(receive)),
        }
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in tasks:
                each.cancel()
            self._streams.discard(stream)
            self._last_left = time.monotonic()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _no_room_for(self, stream: _Stream) -> str | None:
        session, sessions = stream.viewer.session, [each.viewer.session for each in self._streams]
        links = [each.viewer for each in sessions if each.viewer]
        if self._is_closing:
            return "the server stops"
        if (
            len(sessions) >= MAX_STREAMS
            or [each.content for each in sessions].count(session.content) >= MAX_STREAMS_PER_SESSION
            or (session.viewer and links.count(session.viewer) >= MAX_STREAMS_PER_LINK)
            or (session.viewer and len(links) >= MAX_STREAMS_OF_LINKS)
        ):
            return "too many live pages at once"
        return None

    async def _write(self, stream: _Stream, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [*_HEAD]})
        await _send(send, ":\n\n")
        while not stream.is_closed:
            if self.version and stream.sent != self.version:
                stream.sent = self.version
                await _send(send, f"data: {stream.sent}\n\n")
                continue
            stream.wake.clear()
            try:
                async with asyncio.timeout(HEARTBEAT_SECONDS):
                    await stream.wake.wait()
            except TimeoutError:
                await _send(send, ":\n\n")
        await send({"type": "http.response.body", "body": b""})

    async def _poll(self) -> None:
        valid: frozenset[str] | None = None
        try:
            while self._streams or time.monotonic() - self._last_left < LINGER_SECONDS:
                try:
                    changes = await self._read()
                    self._last_text, valid = changes.text, changes.valid
                except DaybookError as error:
                    # A page shows the error when it is requested again, within a minute.
                    log.debug("cannot read what changed: %s", error)
                except Exception:
                    log.warning("cannot read what changed", exc_info=True)
                self._publish(valid)
                await asyncio.sleep(POLL_INTERVAL_SECONDS)
        finally:
            self.poller, self.version = None, ""
            self.shared.clear()

    def _publish(self, valid: frozenset[str] | None) -> None:
        minute = int(self._clock() // 60)
        content = f"{minute} {self._last_text}"
        version = hashlib.sha256(content.encode()).hexdigest()[:16]
        is_new, self.version = version != self.version, version
        for each in list(self._streams):
            revocable = each.viewer.revocable
            is_revoked = revocable and valid is not None and revocable not in valid
            if is_revoked or not each.viewer.is_current():
                each.close()
            elif is_new:
                each.wake.set()

    def close(self) -> None:
        """End all streams, and accept no new ones."""
        self._is_closing = True
        for each in self._streams:
            each.close()
        if self.poller is not None:
            self.poller.cancel()


async def _send(send: Send, text: str) -> None:
    await send({"type": "http.response.body", "body": text.encode(), "more_body": True})


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class SharedPages:
    """Pages of the current version. Each is rendered once for all viewers with the same rights.

    If there are `MAX_SHARED_PAGES`, the next request removes all of them. A page whose status is
    not 200 is not stored.
    """

    def __init__(self) -> None:
        self._version = ""
        self._pages: dict[tuple[str, bool], asyncio.Task[Response]] = {}

    async def get(
        self, version: str, key: tuple[str, bool], render: Callable[[], Awaitable[Response]]
    ) -> Response:
        """Return the page of ``key``. If it has not been rendered for ``version``, call ``render``.

        ``key`` has the page's address, and whether its viewers can only read.
        """
        if version != self._version or len(self._pages) >= MAX_SHARED_PAGES:
            self._version, self._pages = version, {}
        task = self._pages.get(key)
        if task is None:
            task = self._pages[key] = asyncio.ensure_future(render())
        response: Response | None = None
        try:
            response = await asyncio.shield(task)  # other viewers may wait for the same page
            return response
        finally:
            is_wrong = task.done() and (response is None or response.status_code != 200)
            if is_wrong and self._pages.get(key) is task:
                del self._pages[key]

    def clear(self) -> None:
        self._pages = {}
