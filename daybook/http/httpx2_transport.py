"""Guarded transport for httpx2: its network backend, stream and transport classes."""

from __future__ import annotations

from typing import Any

import httpcore2
import httpx2

from daybook.http.transport import (
    GuardedTransport,
    HttpLibrary,
    PinnedBackend,
    PinnedConnection,
    ResponseBody,
)


class _Backend(PinnedBackend, httpcore2.AsyncNetworkBackend):
    pass


class _Connection(PinnedConnection, httpcore2.AsyncNetworkStream):
    pass


class _Body(ResponseBody, httpx2.AsyncByteStream):
    pass


LIBRARY = HttpLibrary(httpx2, httpcore2, _Backend, _Connection, _Body)


class Httpx2Transport(GuardedTransport, httpx2.AsyncBaseTransport):
    """A `GuardedTransport` for `httpx2`, the client of MCP's and pydantic-ai's libraries."""

    library = LIBRARY

    def client(self, **given: Any) -> httpx2.AsyncClient:
        """Return a client that uses only this transport; ``given`` are its other arguments.

        ``follow_redirects`` in them is ignored: this transport follows redirects itself.
        ``trust_env`` is false because a client that reads the environment adds proxies that bypass
        its transport, and reads `.netrc`.
        """
        given |= {"transport": self, "trust_env": False, "follow_redirects": False}
        return httpx2.AsyncClient(**given)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response: httpx2.Response = await self.send(request)
        return response
