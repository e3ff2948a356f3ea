"""A server at an address: streamable HTTP, by the guarded way out.

Each answer is bounded, and comes as it is: what is compressed was not asked for.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, suppress
from types import TracebackType
from typing import TYPE_CHECKING

import httpcore2
import httpx
import httpx2

import daybook
from daybook.clock import SYSTEM_CLOCK
from daybook.errors import InvalidInput
from daybook.http import guard as addresses
from daybook.http.guard import Guard
from daybook.http.httpx2_transport import Httpx2Transport
from daybook.http.request import RETRYABLE_STATUSES, certificate_problem, retry_after, status_text
from daybook.http.transport import PROGRESS_EXTENSION, SECRETS_EXTENSION, Progress
from daybook.tools.wire import CALL, LONGEST, Fault

if TYPE_CHECKING:
    from mcp.client._transport import TransportStreams

CONNECT = 15.0
"""Seconds to connect, and for a part of a request to be taken."""


class HttpWire:
    """A connection to the server at ``url``; ``secret`` names the headers that hold secrets.

    ``backend`` opens connections, as `Httpx2Transport` has it.
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
        return addresses.origin(httpx.URL(self._url))

    @property
    def sent(self) -> bool:
        return self._way.progress.sent

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

    def begin(self) -> None:
        self._way.begin()

    def gently(self) -> None:
        """There is nothing to end."""

    def explained(self, told: str) -> str:
        return told

    def came(self, code: int) -> bool:
        # A server that is busy may say so in the protocol's words as well.
        return self._way.status not in RETRYABLE_STATUSES and code in self._way.codes()

    def fault(self) -> Fault | None:
        way, shown = self._way, self.shown
        if way.status is not None and way.status >= 400:  # whatever is missing of the words to it
            return Fault(
                f"{shown} answered {status_text(way.status)}",
                # Before the call anything but the asker's own fault may pass.
                refused=way.status not in RETRYABLE_STATUSES and (way.called or way.status < 500),
                undone=True,
                retry_after=retry_after(way.retry_after, SYSTEM_CLOCK.now()),
            )
        match way.error:
            case InvalidInput():
                return Fault(str(way.error), refused=True, raised=way.error)
            case _TooLong():
                return Fault(f"{shown}: {way.error}", refused=True)
            case Exception():
                certificate = certificate_problem(way.error)
                why = certificate or str(way.error)
                reached = way.progress.sent if way.called else way.status is not None
                told = "the connection ended before the whole answer"
                told = f"{shown}: {told if reached else 'it cannot be reached'}"
                return Fault(told + (f" ({why})" if why else ""), refused=bool(certificate))
        return None


class _Way(Httpx2Transport):
    """The guarded way out, which keeps what became of the last request that wants an answer.

    ``called`` is set when a call is sent.
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
        self._heard: list[tuple[str, bytearray]] = []
        self._read = 0
        self.status: int | None = None
        self.retry_after = ""
        self.error: Exception | None = None
        self._secret = secret

    def begin(self) -> None:
        self.progress = Progress()
        self.status, self.error = None, None
        self._deaf()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        method = _method(request)
        request.headers["Accept-Encoding"] = "identity"
        request.extensions = {**request.extensions, SECRETS_EXTENSION: self._secret}
        if method:
            self.status, self.error = None, None
        if method == CALL:
            self.called, self._read = True, 0
            self._deaf()
            request.extensions[PROGRESS_EXTENSION] = self.progress
        try:
            response = await super().handle_async_request(request)
            if method:
                self.status = response.status_code
                self.retry_after = response.headers.get("retry-after", "")
            encoding = response.headers.get("content-encoding", "identity")
            if encoding.strip().lower() not in ("", "identity"):
                await response.aclose()
                raise httpx2.DecodingError("the answer is compressed, which was not asked for")
        except (InvalidInput, httpx2.RequestError) as error:
            if method:
                self.error = error
            raise
        return httpx2.Response(
            response.status_code,
            headers=response.headers,
            stream=_Bounded(response, self, wanted=bool(method)),
            extensions=response.extensions,
            request=request,
        )

    def ear(self, kind: str) -> bytearray:
        """Where `hear` is to keep what a body of that type says."""
        self._heard.append((kind, bytearray()))
        return self._heard[-1][1]

    def hear(self, ear: bytearray, part: bytes) -> None:
        """Before the call all bodies together are bounded: raises `_TooLong`."""
        self._read += len(part)
        if self.called:
            ear += part if self._read <= LONGEST else b""
        elif self._read > LONGEST:
            raise _TooLong(f"what it says of its tools is longer than {LONGEST:,} bytes")

    def _deaf(self) -> None:
        """To what was said before a call."""
        for _, body in self._heard:
            body.clear()

    def codes(self) -> set[int]:
        """Those of the errors that came whole since the call."""
        return {code for kind, body in self._heard for code in _codes(kind, bytes(body))}


class _TooLong(httpx2.ReadError):
    """An answer that is longer than is read."""


class _Bounded(httpx2.AsyncByteStream):
    """A body, up to `LONGEST`; ``wanted`` where it answers a request that wants an answer."""

    def __init__(self, response: httpx2.Response, way: _Way, *, wanted: bool) -> None:
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        self._body = response.stream
        self._ear = way.ear(response.headers.get("content-type", "").lower())
        self._way = way
        self._wanted = wanted

    async def __aiter__(self) -> AsyncIterator[bytes]:
        read = 0
        try:
            async for part in self._body:
                read += len(part)
                if read > LONGEST:
                    raise _TooLong(f"the answer is longer than {LONGEST:,} bytes")
                self._way.hear(self._ear, part)
                yield part
        except httpx2.RequestError as error:
            if self._wanted:
                self._way.error = error
            raise

    async def aclose(self) -> None:
        await self._body.aclose()


def _codes(kind: str, body: bytes) -> Iterator[int]:
    from mcp_types import JSONRPCError, jsonrpc_message_adapter

    messages: list[str | bytes] = [body]
    if kind.startswith("text/event-stream"):
        asked = httpx2.Request("GET", "http://server")  # no events without one
        events = httpx2.Response(200, headers={"Content-Type": kind}, content=body, request=asked)
        messages = [each.data for each in httpx2.EventSource(events, max_event_size=LONGEST)]
    for each in messages:
        with suppress(ValueError):  # no message, or not the whole of one
            message = jsonrpc_message_adapter.validate_json(each, by_name=False)
            if isinstance(message, JSONRPCError):
                yield message.error.code


def _method(request: httpx2.Request) -> str:
    """The protocol's method, where ``request`` is one that wants an answer; "" for all others."""
    if request.method != "POST":
        return ""
    message = json.loads(request.content)
    return str(message["method"]) if "id" in message and "method" in message else ""
