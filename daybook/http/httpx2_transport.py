"""The guarded way out for httpx2: its network backend, and its transport."""

from __future__ import annotations

from typing import Any

import httpcore2
import httpx2

from daybook.http.transport import Body, GuardedTransport, JudgedConnection, Library, PinnedBackend


class _Backend(PinnedBackend, httpcore2.AsyncNetworkBackend):
    pass


class _Connection(JudgedConnection, httpcore2.AsyncNetworkStream):
    pass


class _Body(Body, httpx2.AsyncByteStream):
    pass


LIBRARY = Library(httpx2, httpcore2, _Backend, _Connection, _Body)


class Httpx2Transport(GuardedTransport, httpx2.AsyncBaseTransport):
    """A `GuardedTransport` for `httpx2`, the client that MCP's and pydantic-ai's libraries use."""

    library = LIBRARY

    def client(self, **given: Any) -> httpx2.AsyncClient:
        """A client that has no other way; ``given`` are its other arguments.

        It fits where fastmcp and mcp want a factory of clients: what they say of redirects is left
        to this transport. With the environment a client sets up proxies beside its transport and
        reads `.netrc`.
        """
        given |= {"transport": self, "trust_env": False, "follow_redirects": False}
        return httpx2.AsyncClient(**given)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response: httpx2.Response = await self.send(request)
        return response
