"""A server at an address: streamable HTTP, by the guarded way out.

Each answer is bounded, and comes as it is: what is compressed was not asked for.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from types import TracebackType
from typing import TYPE_CHECKING

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


class HttpWire(GuardedTransport):
    """A connection to the server at ``url``; ``secret`` names the headers that hold secrets."""

    def __init__(
        self,
        guard: Guard,
        url: str,
        headers: Mapping[str, str],
        secret: frozenset[str],
    ) -> None:
        super().__init__(guard, one_origin=True)
        self._url = url
        self._headers = {**headers, "User-Agent": f"daybook/{daybook.__version__}"}
        self._secret = secret
        self._stack = AsyncExitStack()
        self._progress = Progress()
        self._called = False
        self._heard = bytearray()
        self._status: int | None = None
        self._retry_after = ""
        self._error: Exception | None = None

    @property
    def shown(self) -> str:
        """Scheme, host and port: what a message may tell of an address."""
        return addresses.origin(httpx2.URL(self._url))

    @property
    def sent(self) -> bool:
        return self._called and self._progress.sent

    async def __aenter__(self) -> TransportStreams:
        from mcp.client.streamable_http import streamable_http_client

        # The whole is bounded by who asks: a tool may take its time.
        timeout = httpx2.Timeout(CONNECT, read=None)
        async with AsyncExitStack() as stack:
            client = self.client(headers=self._headers, timeout=timeout)
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
        return str(code).encode() in self._heard

    def fault(self) -> Fault | None:
        shown = self.shown
        match self._error:
            case Refused():
                return Fault(str(self._error), refused=True, raised=self._error)
            case _TooLong():
                return Fault(f"{shown}: {self._error}", refused=True)
            case Exception():
                why = untrusted(self._error) or str(self._error)
                told = "the connection ended before the whole answer"
                if not (self._progress.sent if self._called else self._status):
                    told = "it cannot be reached"
                said = f" ({why})" if why else ""
                return Fault(f"{shown}: {told}{said}", refused=bool(untrusted(self._error)))
        if self._status is None or self._status < 400:
            return None
        return Fault(
            f"{shown} answered {words_of(self._status)}",
            refused=self._status not in TRY_AGAIN and (self._called or self._status < 500),
            undone=True,
            retry_after=retry_after(self._retry_after, SYSTEM.now()),
        )

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        method = _method(request)
        request.headers["Accept-Encoding"] = "identity"
        request.extensions = {**request.extensions, SECRETS: self._secret}
        if method == CALL:
            self._called, self._status, self._error = True, None, None
            request.extensions[PROGRESS] = self._progress
        try:
            response = await super().handle_async_request(request)
            encoding = response.headers.get("content-encoding", "identity")
            if encoding.strip().lower() not in ("", "identity"):
                await response.aclose()
                raise httpx2.DecodingError("the answer is compressed, which was not asked for")
        except (Refused, httpx2.RequestError) as error:
            if method:
                self._error = error
            raise
        if method:
            self._status = response.status_code
            self._retry_after = response.headers.get("retry-after", "")
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        return httpx2.Response(
            response.status_code,
            headers=response.headers,
            stream=_Bounded(response.stream, self, of_ours=bool(method)),
            extensions=response.extensions,
            request=request,
        )

    def hear(self, part: bytes) -> None:
        """Keep what comes after the call: whether an error in it came, or was made up here."""
        if self._called:
            self._heard += part[: LONGEST - len(self._heard)]

    def broke(self, error: Exception) -> None:
        """An answer of ours ended in its middle."""
        self._error = error


class _TooLong(httpx2.ReadError):
    """An answer that is longer than is read."""


class _Bounded(httpx2.AsyncByteStream):
    """An answer's body, up to `LONGEST`; ``of_ours`` where it answers a request of ours."""

    def __init__(self, body: httpx2.AsyncByteStream, wire: HttpWire, *, of_ours: bool) -> None:
        self._body = body
        self._wire = wire
        self._of_ours = of_ours

    async def __aiter__(self) -> AsyncIterator[bytes]:
        read = 0
        try:
            async for part in self._body:
                read += len(part)
                if read > LONGEST:
                    raise _TooLong(f"the answer is longer than {LONGEST:,} bytes")
                self._wire.hear(part)
                yield part
        except httpx2.RequestError as error:
            if self._of_ours:
                self._wire.broke(error)
            raise

    async def aclose(self) -> None:
        await self._body.aclose()


def _method(request: httpx2.Request) -> str:
    """The protocol's method, where ``request`` is one that is answered; "" for all others."""
    if request.method != "POST":
        return ""
    message = json.loads(request.content)
    return str(message["method"]) if "id" in message and "method" in message else ""
