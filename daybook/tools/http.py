"""Connection to an MCP server over streamable HTTP, through the SSRF guard.

The length of each response is limited, and a response must not be compressed.
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
from daybook.tools.wire import CALL_METHOD, MAX_MESSAGE_BYTES, Fault

if TYPE_CHECKING:
    from mcp.client._transport import TransportStreams

CONNECT_TIMEOUT_SECONDS = 15.0
"""Timeout for connecting, and for sending a part of a request."""


class HttpWire:
    """Connection to the server at ``url``. ``secret`` names the headers that contain secrets.

    ``backend`` opens network connections, as in `Httpx2Transport`.
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
        self._transport = _TrackingTransport(guard, secret, backend)
        self._stack = AsyncExitStack()

    @property
    def shown(self) -> str:
        """Return scheme, host and port of the URL. Messages contain no other part of it."""
        return addresses.origin(httpx.URL(self._url))

    @property
    def sent(self) -> bool:
        return self._transport.progress.sent

    async def __aenter__(self) -> TransportStreams:
        from mcp.client.streamable_http import streamable_http_client

        # There is no read timeout, because a tool may be slow and the caller limits the whole call.
        timeout = httpx2.Timeout(CONNECT_TIMEOUT_SECONDS, read=None)
        async with AsyncExitStack() as stack:
            client = self._transport.client(headers=self._headers, timeout=timeout)
            await stack.enter_async_context(client)
            streams = await stack.enter_async_context(
                streamable_http_client(
                    self._url, http_client=client, max_sse_event_size=MAX_MESSAGE_BYTES
                )
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
        self._transport.begin()

    def allow_exit(self) -> None:
        """Do nothing, because there is no process to end."""

    def explained(self, message: str) -> str:
        return message

    def came(self, code: int) -> bool:
        # If the status allows a retry, a protocol error does not count as an answer.
        return self._transport.status not in RETRYABLE_STATUSES and code in self._transport.codes()

    def fault(self) -> Fault | None:
        transport, shown = self._transport, self.shown
        if transport.status is not None and transport.status >= 400:
            # The status counts even if the body is incomplete.
            return Fault(
                f"{shown} answered {status_text(transport.status)}",
                # Before the call, an error of the server (5xx) may be temporary.
                refused=transport.status not in RETRYABLE_STATUSES
                and (transport.called or transport.status < 500),
                status=transport.status,
                retry_after=retry_after(transport.retry_after, SYSTEM_CLOCK.now()),
            )
        match transport.error:
            case InvalidInput():
                return Fault(str(transport.error), refused=True, raised=transport.error)
            case _TooLong():
                return Fault(f"{shown}: {transport.error}", refused=True)
            case Exception():
                certificate = certificate_problem(transport.error)
                detail = certificate or str(transport.error)
                was_reached = (
                    transport.progress.sent if transport.called else transport.status is not None
                )
                message = "the connection ended before the answer was complete"
                message = f"{shown}: {message if was_reached else 'it cannot be reached'}"
                return Fault(
                    message + (f" ({detail})" if detail else ""), refused=bool(certificate)
                )
        return None


class _TrackingTransport(Httpx2Transport):
    """Guarded transport that records the result of the last request that expects an answer.

    ``called`` becomes True when the first call is sent.
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
        self._bodies: list[tuple[str, bytearray]] = []
        self._read = 0
        self.status: int | None = None
        self.retry_after = ""
        self.error: Exception | None = None
        self._secret = secret

    def begin(self) -> None:
        self.progress = Progress()
        self.status, self.error = None, None
        self._clear_bodies()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        method = _method(request)
        request.headers["Accept-Encoding"] = "identity"
        request.extensions = {**request.extensions, SECRETS_EXTENSION: self._secret}
        if method:
            self.status, self.error = None, None
        if method == CALL_METHOD:
            self.called, self._read = True, 0
            self._clear_bodies()
            request.extensions[PROGRESS_EXTENSION] = self.progress
        try:
            response = await super().handle_async_request(request)
            if method:
                self.status = response.status_code
                self.retry_after = response.headers.get("retry-after", "")
            encoding = response.headers.get("content-encoding", "identity")
            if encoding.strip().lower() not in ("", "identity"):
                await response.aclose()
                raise httpx2.DecodingError(
                    "the server compressed its answer, although Daybook accepts no compression"
                )
        except (InvalidInput, httpx2.RequestError) as error:
            if method:
                self.error = error
            raise
        return httpx2.Response(
            response.status_code,
            headers=response.headers,
            stream=_BoundedBody(response, self, wanted=bool(method)),
            extensions=response.extensions,
            request=request,
        )

    def new_body(self, kind: str) -> bytearray:
        """Return a new buffer, in which `record` stores a body of this content type."""
        self._bodies.append((kind, bytearray()))
        return self._bodies[-1][1]

    def record(self, body: bytearray, part: bytes) -> None:
        """Store a part of a body that arrives after the call, up to a limit.

        Before the call, raise `_TooLong` if all bodies together exceed it.
        """
        self._read += len(part)
        if self.called:
            body += part if self._read <= MAX_MESSAGE_BYTES else b""
        elif self._read > MAX_MESSAGE_BYTES:
            raise _TooLong(f"its list of tools is longer than {MAX_MESSAGE_BYTES:,} bytes")

    def _clear_bodies(self) -> None:
        """Empty the recorded bodies before a call."""
        for _, body in self._bodies:
            body.clear()

    def codes(self) -> set[int]:
        """Return the codes of the errors that have arrived completely since the call."""
        return {code for kind, body in self._bodies for code in _error_codes(kind, bytes(body))}


class _TooLong(httpx2.ReadError):
    """The response is longer than the limit."""


class _BoundedBody(httpx2.AsyncByteStream):
    """Body of at most `MAX_MESSAGE_BYTES`.

    ``wanted`` is True if the request expects an answer.
    """

    def __init__(
        self, response: httpx2.Response, transport: _TrackingTransport, *, wanted: bool
    ) -> None:
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        self._body = response.stream
        self._copy = transport.new_body(response.headers.get("content-type", "").lower())
        self._transport = transport
        self._wanted = wanted

    async def __aiter__(self) -> AsyncIterator[bytes]:
        read = 0
        try:
            async for part in self._body:
                read += len(part)
                if read > MAX_MESSAGE_BYTES:
                    raise _TooLong(f"the answer is longer than {MAX_MESSAGE_BYTES:,} bytes")
                self._transport.record(self._copy, part)
                yield part
        except httpx2.RequestError as error:
            if self._wanted:
                self._transport.error = error
            raise

    async def aclose(self) -> None:
        await self._body.aclose()


def _error_codes(kind: str, body: bytes) -> Iterator[int]:
    from mcp_types import JSONRPCError, jsonrpc_message_adapter

    messages: list[str | bytes] = [body]
    if kind.startswith("text/event-stream"):
        request = httpx2.Request("GET", "http://server")  # EventSource needs a request
        events = httpx2.Response(200, headers={"Content-Type": kind}, content=body, request=request)
        messages = [
            each.data for each in httpx2.EventSource(events, max_event_size=MAX_MESSAGE_BYTES)
        ]
    for each in messages:
        with suppress(ValueError):  # the text is not a message, or an incomplete one
            message = jsonrpc_message_adapter.validate_json(each, by_name=False)
            if isinstance(message, JSONRPCError):
                yield message.error.code


def _method(request: httpx2.Request) -> str:
    """Return the MCP method of a request that expects an answer.

    Return "" for any other request.
    """
    if request.method != "POST":
        return ""
    message = json.loads(request.content)
    return str(message["method"]) if "id" in message and "method" in message else ""
