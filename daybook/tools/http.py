"""A server at an address: streamable HTTP, by the guarded way out.

Each answer is bounded, and comes as it is: what is compressed was not asked for.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from types import TracebackType
from typing import TYPE_CHECKING

import httpcore2
import httpx2

import daybook
from daybook.clock import SYSTEM
from daybook.errors import Refused
from daybook.outgoing import guard as addresses
from daybook.outgoing.guard import Guard
from daybook.outgoing.http import untrusted
from daybook.outgoing.transport import PROGRESS, SECRETS, GuardedTransport, Progress
from daybook.outgoing.webhook import TRY_AGAIN, retry_after, words_of
from daybook.tools.wire import CALL, LONGEST, Fault

if TYPE_CHECKING:
    from mcp.client._transport import TransportStreams

CONNECT = 15.0
"""Seconds to connect, and for a part of a request to be taken."""


class HttpWire:
    """A connection to the server at ``url``; ``secret`` names the headers that hold secrets.

    ``backend`` opens connections, as `GuardedTransport` has it.
    """

    def __init__(
        self,
        guard: Guard,
        url: str,
        headers: Mapping[str, str],
        secret: frozenset[str] = frozenset(),
        *,
        backend: httpcore2.AsyncNetworkBackend | None = None,
    ) -> None:
        self._url = url
        self._headers = {**headers, "User-Agent": f"daybook/{daybook.__version__}"}
        self._way = _Way(guard, secret, backend)
        self._stack = AsyncExitStack()

    @property
    def shown(self) -> str:
        """Scheme, host and port: what a message may tell of an address."""
        return addresses.origin(httpx2.URL(self._url))

    @property
    def sent(self) -> bool:
        return self._way.called and self._way.progress.sent

    async def __aenter__(self) -> TransportStreams:
        from mcp.client.streamable_http import streamable_http_client

        # The whole is bounded by who asks: a tool may take its time.
        timeout = httpx2.Timeout(CONNECT, read=None)
        async with AsyncExitStack() as stack:
            client = self._way.client(headers=self._headers, timeout=timeout)
            await stack.enter_async_context(client)
            streams = await stack.enter_async_context(
                streamable_http_client(self._url, http_client=client, max_sse_event_size=LONGEST)
            )
            self._stack = stack.pop_all()
        return streams

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        return await self._stack.__aexit__(kind, error, trace)

    def gently(self) -> None:
        """There is nothing to end."""

    def explained(self, told: str) -> str:
        return told

    def came(self, code: int) -> bool:
        return str(code).encode() in self._way.heard

    def fault(self) -> Fault | None:
        way, shown = self._way, self.shown
        match way.error:
            case Refused():
                return Fault(str(way.error), refused=True, raised=way.error)
            case _TooLong():
                return Fault(f"{shown}: {way.error}", refused=True)
            case Exception():
                certificate = untrusted(way.error)
                why = certificate or str(way.error)
                reached = way.progress.sent if way.called else way.status is not None
                told = "the connection ended before the whole answer"
                told = f"{shown}: {told if reached else 'it cannot be reached'}"
                return Fault(told + (f" ({why})" if why else ""), refused=bool(certificate))
        if way.status is None or way.status < 400:
            return None
        return Fault(
            f"{shown} answered {words_of(way.status)}",
            # Before the call anything but the asker's own fault may pass.
            refused=way.status not in TRY_AGAIN and (way.called or way.status < 500),
            undone=True,
            retry_after=retry_after(way.retry_after, SYSTEM.now()),
        )


class _Way(GuardedTransport):
    """The guarded way out, which keeps what became of the last request that wants an answer.

    ``called`` is set when a call is sent; ``heard`` is what came since.
    """

    def __init__(
        self,
        guard: Guard,
        secret: frozenset[str],
        backend: httpcore2.AsyncNetworkBackend | None,
    ) -> None:
        super().__init__(guard, backend=backend, one_origin=True)
        self.progress = Progress()
        self.called = False
        self.heard = bytearray()
        self.status: int | None = None
        self.retry_after = ""
        self.error: Exception | None = None
        self._secret = secret

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        method = _method(request)
        request.headers["Accept-Encoding"] = "identity"
        request.extensions = {**request.extensions, SECRETS: self._secret}
        if method == CALL:
            self.called, self.status, self.error = True, None, None
            request.extensions[PROGRESS] = self.progress
        try:
            response = await super().handle_async_request(request)
            encoding = response.headers.get("content-encoding", "identity")
            if encoding.strip().lower() not in ("", "identity"):
                await response.aclose()
                raise httpx2.DecodingError("the answer is compressed, which was not asked for")
        except (Refused, httpx2.RequestError) as error:
            if method:
                self.error = error
            raise
        if method:
            self.status = response.status_code
            self.retry_after = response.headers.get("retry-after", "")
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        return httpx2.Response(
            response.status_code,
            headers=response.headers,
            stream=_Bounded(response.stream, self, wanted=bool(method)),
            extensions=response.extensions,
            request=request,
        )

    def hear(self, part: bytes) -> None:
        if self.called:
            self.heard += part[: LONGEST - len(self.heard)]


class _TooLong(httpx2.ReadError):
    """An answer that is longer than is read."""


class _Bounded(httpx2.AsyncByteStream):
    """A body, up to `LONGEST`; ``wanted`` where it answers a request that wants an answer."""

    def __init__(self, body: httpx2.AsyncByteStream, way: _Way, *, wanted: bool) -> None:
        self._body = body
        self._way = way
        self._wanted = wanted

    async def __aiter__(self) -> AsyncIterator[bytes]:
        read = 0
        try:
            async for part in self._body:
                read += len(part)
                if read > LONGEST:
                    raise _TooLong(f"the answer is longer than {LONGEST:,} bytes")
                self._way.hear(part)
                yield part
        except httpx2.RequestError as error:
            if self._wanted:
                self._way.error = error
            raise

    async def aclose(self) -> None:
        await self._body.aclose()


def _method(request: httpx2.Request) -> str:
    """The protocol's method, where ``request`` is one that wants an answer; "" for all others."""
    if request.method != "POST":
        return ""
    message = json.loads(request.content)
    return str(message["method"]) if "id" in message and "method" in message else ""
