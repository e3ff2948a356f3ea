"""Guarded transport for httpx2: its network backend, stream and transport classes."""

from __future__ import annotations

import httpcore2
import httpx2

from daybook.http.transport import (
    GuardedTransport,
    HttpLibrary,
    PinnedBackend,
    PinnedConnection,
    ResponseBody,
)


class _Httpx2Backend(PinnedBackend, httpcore2.AsyncNetworkBackend):
    pass


class _Httpx2Connection(PinnedConnection, httpcore2.AsyncNetworkStream):
    pass


class _Httpx2Body(ResponseBody, httpx2.AsyncByteStream):
    pass


class Httpx2Transport(GuardedTransport, httpx2.AsyncBaseTransport):
    """A `GuardedTransport` for `httpx2`, the HTTP client of the MCP library and of pydantic-ai."""

    library = HttpLibrary(httpx2, httpcore2, _Httpx2Backend, _Httpx2Connection, _Httpx2Body)
