"""Guarded transport for httpx: its network backend, stream and transport classes."""

from __future__ import annotations

import httpcore
import httpx

from daybook.http.transport import (
    GuardedTransport,
    HttpLibrary,
    PinnedBackend,
    PinnedConnection,
    ResponseBody,
)


class _HttpxBackend(PinnedBackend, httpcore.AsyncNetworkBackend):
    pass


class _HttpxConnection(PinnedConnection, httpcore.AsyncNetworkStream):
    pass


class _HttpxBody(ResponseBody, httpx.AsyncByteStream):
    pass


class HttpxTransport(GuardedTransport, httpx.AsyncBaseTransport):
    """A `GuardedTransport` for `httpx`. It sends webhook jobs, callbacks and wakes.

    The checks of jobs also read watched pages with it (`daybook.execution.watches`).
    """

    library = HttpLibrary(httpx, httpcore, _HttpxBackend, _HttpxConnection, _HttpxBody)
