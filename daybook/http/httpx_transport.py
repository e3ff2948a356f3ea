"""Guarded transport for httpx: its network backend, stream and transport classes."""

from __future__ import annotations

from typing import Any

import httpcore
import httpx

from daybook.http.transport import (
    GuardedTransport,
    HttpLibrary,
    PinnedBackend,
    PinnedConnection,
    ResponseBody,
)


class _Backend(PinnedBackend, httpcore.AsyncNetworkBackend):
    pass


class _Connection(PinnedConnection, httpcore.AsyncNetworkStream):
    pass


class _Body(ResponseBody, httpx.AsyncByteStream):
    pass


LIBRARY = HttpLibrary(httpx, httpcore, _Backend, _Connection, _Body)


class HttpxTransport(GuardedTransport, httpx.AsyncBaseTransport):
    """A `GuardedTransport` for `httpx`; it sends webhook jobs, callbacks and wakes."""

    library = LIBRARY

    def client(self, **given: Any) -> httpx.AsyncClient:
        """Return a client that uses only this transport; ``given`` are its other arguments.

        ``trust_env`` is false because a client that reads the environment adds proxies that bypass
        its transport, and reads `.netrc`.
        """
        given |= {"transport": self, "trust_env": False, "follow_redirects": False}
        return httpx.AsyncClient(**given)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response: httpx.Response = await self.send(request)
        return response
