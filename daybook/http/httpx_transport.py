"""The guarded way out for httpx: its network backend, and its transport."""

from __future__ import annotations

from typing import Any

import httpcore
import httpx

from daybook.http.transport import Body, GuardedTransport, JudgedConnection, Library, PinnedBackend


class _Backend(PinnedBackend, httpcore.AsyncNetworkBackend):
    pass


class _Connection(JudgedConnection, httpcore.AsyncNetworkStream):
    pass


class _Body(Body, httpx.AsyncByteStream):
    pass


LIBRARY = Library(httpx, httpcore, _Backend, _Connection, _Body)


class HttpxTransport(GuardedTransport, httpx.AsyncBaseTransport):
    """A `GuardedTransport` for `httpx`: webhook jobs, callbacks and wakes are sent by it."""

    library = LIBRARY

    def client(self, **given: Any) -> httpx.AsyncClient:
        """A client that has no other way; ``given`` are its other arguments.

        With the environment a client sets up proxies beside its transport and reads `.netrc`.
        """
        given |= {"transport": self, "trust_env": False, "follow_redirects": False}
        return httpx.AsyncClient(**given)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response: httpx.Response = await self.send(request)
        return response
