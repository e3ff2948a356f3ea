"""Guarded transport, shared by `httpx_transport` and `httpx2_transport`.

::

    request ─► check the host ─► connect to a checked address ─► send ─► response ─┬─► returned
                   ▲                                                               │
                   └────────────────────── the next request ◄── a redirect ◄───────┘

httpx2 is a fork of httpx with the same API, and httpcore2 is such a fork of httpcore. So this
module, `guard` and `redirects` contain the rules for both, and an `HttpLibrary` names the modules
to use.

By default, each request has its own connection to the checked IP address. So no request can use a
connection that only another request was allowed to open. The certificate, SNI and `Host` use the
host name of the URL.

A sender of thousands of requests to a few hosts may keep connections (``kept_for``). The transport
still checks the text of each URL, but resolves its host name only once in ``kept_for`` seconds. A
kept connection serves only requests of this transport to the same scheme, name, port and path.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import httpx

from daybook.errors import InvalidInput, OutgoingRefused
from daybook.http import guard, redirects
from daybook.http.guard import Guard, Target

PROGRESS_EXTENSION = "daybook_progress"
SECRETS_EXTENSION = "daybook_secrets"
SECRET_BODY = ":body"
"""Entry in `SECRETS_EXTENSION` that marks the body as secret. No header has this name."""
MAX_IDLE_SECONDS = 2.0
"""Maximum time that a kept connection may be idle. Common servers close a connection later."""
CONNECTED_ADDRESS = "daybook_connected"
"""Name of the extra info of a network stream that contains the IP address of its connection."""


@dataclass
class Progress:
    """The progress of an exchange. A request has it in its extensions as `PROGRESS_EXTENSION`.

    ``sent`` is true from the first byte of a request on, because the request may then have had its
    effect. ``sent`` becomes false again if a redirect reports that the request had no effect and
    has to be sent to another URL. ``had_effect`` becomes true if a redirect reports that a request
    had an effect. ``redirects`` describes each followed redirect, and ``moved_to`` is the URL
    of the last one, "" if there is none.
    """

    sent: bool = False
    had_effect: bool = False
    redirects: tuple[str, ...] = ()
    moved_to: str = ""


@dataclass(frozen=True)
class HttpLibrary:
    """An HTTP client library: `httpx` with `httpcore`, or `httpx2` with `httpcore2`.

    ``http`` is the first module, and ``core`` is the second.
    ``backend``, ``connection`` and ``body`` are classes that combine the classes of this module
    with the library's network backend, network stream and response stream.
    """

    http: Any
    core: Any
    backend: type[PinnedBackend]
    connection: type[PinnedConnection]
    body: type[ResponseBody]


class GuardedTransport:
    """Transport that sends only to addresses that ``guard`` allows, and follows redirects itself.

    ``backend`` opens connections to IP addresses, never to names. ``ssl_context`` contains the
    trusted certificates, by default this machine's. If ``one_origin`` is true, the transport
    refuses a redirect that changes the origin or the method, so a body with secrets goes to one
    origin only. If ``follow`` is false, the transport returns a redirect as the response. If
    ``kept_for`` is positive, new requests may use a connection until that many seconds after its
    address was checked. Then the caller must close the transport (`aclose`).

    The extension `SECRETS_EXTENSION` of a request is a collection of names, in lower case, of the
    headers that contain secrets. The name `SECRET_BODY` stands for the body. The transport refuses
    to send such a request over plain HTTP to a public address.

    A request raises `InvalidInput`, `OutgoingRefused`, or the library's `TransportError`.
    """

    library: ClassVar[HttpLibrary]

    def __init__(
        self,
        guard: Guard,
        *,
        backend: Any = None,
        ssl_context: ssl.SSLContext | None = None,
        one_origin: bool = False,
        follow: bool = True,
        kept_for: float = 0.0,
    ) -> None:
        self.guard = guard
        self._one_origin, self._follow = one_origin, follow
        self._kept_for = kept_for
        self._pools: dict[_Key, _Pool] = {}
        self._backend = backend or self.library.core.AnyIOBackend()
        self._ssl_context = ssl_context

    def client(self, **given: Any) -> Any:
        """Return the library's client with only this transport. ``given`` are its other arguments.

        With ``trust_env``, it would add proxies that bypass its transport, and read `.netrc`.
        """
        given |= {"transport": self, "trust_env": False, "follow_redirects": False}
        return self.library.http.AsyncClient(**given)

    async def handle_async_request(self, request: Any) -> Any:
        """Send the library's request and follow its redirects. Return the last response.

        Raise `InvalidInput`, `OutgoingRefused`, or the library's `TransportError`.
        """
        progress = request.extensions.get(PROGRESS_EXTENSION) or Progress()
        secret = frozenset(request.extensions.get(SECRETS_EXTENSION, ()))
        source: str | None = None
        while True:
            url = self._checked_url(request.url)
            pool = await self._pool(url, source)
            try:
                _refuse_plain_secret(request, pool.target, secret, self.guard.rule)
                response, source = await self._send(request, pool, progress)
            except BaseException:
                await pool.leave()
                raise
            where = redirects.location(response.status_code, response.headers)
            if where is None or not self._follow:
                return response
            await response.aclose()
            following = redirects.next_request(
                response.status_code,
                where,
                method=request.method,
                url=url,
                headers=request.headers.multi_items(),
                rule=self.guard.rule,
            )
            progress.had_effect |= following.had_effect
            progress.sent = progress.had_effect
            if self._one_origin and not following.unchanged:
                why = "Daybook does not follow a redirect that changes the address or method"
                raise OutgoingRefused(guard.origin(following.url), why, self.guard.rule)
            if len(progress.redirects) == redirects.MAX_REDIRECTS:
                why = f"more than {redirects.MAX_REDIRECTS} redirects"
                raise OutgoingRefused(guard.origin(following.url), why, self.guard.rule)
            description = f"{response.status_code} to {guard.origin(following.url)}"
            if following.method != request.method:
                description += f", sent as {following.method}"
            progress.redirects += (description,)
            progress.moved_to = str(following.url)
            request = self._next(request, following)

    async def aclose(self) -> None:
        """Close the kept connections. A pool closes now, or when its last request has ended."""
        pools, self._pools = list(self._pools.values()), {}
        for pool in pools:
            await pool.close()

    def _checked_url(self, url: Any) -> httpx.URL:
        """Return the URL as the guard parses it.

        Raise `InvalidInput` if the library parses it differently.
        """
        if isinstance(url, httpx.URL):
            return url
        read = httpx.URL(str(url))
        parts = [(each.scheme, each.raw_host, each.port, each.raw_path) for each in (read, url)]
        if parts[0] != parts[1]:
            raise InvalidInput("url", "is ambiguous", "percent-encode its special characters")
        return read

    async def _pool(self, url: httpx.URL, source: str | None) -> _Pool:
        """Return a checked connection pool for ``url``, and enter it for this request.

        The caller must call `leave` on the pool. ``source`` is the IP address of the server that
        redirected here, or None.
        """
        # The key also contains the path, because a pool scans all its connections for every
        # request.
        key = url.scheme, guard.host_name(url), url.port, url.raw_path.partition(b"?")[0]
        pool = self._pools.get(key) if source is None else None
        if pool is not None and time.monotonic() < pool.until:
            self.guard.check(url)  # the text of the URL is checked for each request
            return pool.enter()
        target = await self._target(url, source)
        if target.url.scheme == "https" and self._ssl_context is None:
            self._ssl_context = default_ssl_context()
        keeps = self._kept_for > 0 and source is None
        connections = self.library.core.AsyncConnectionPool(
            ssl_context=self._ssl_context,
            max_connections=None if keeps else 1,
            max_keepalive_connections=None if keeps else 0,
            keepalive_expiry=MAX_IDLE_SECONDS if keeps else None,
            network_backend=self.library.backend(self.library, target, self._backend),
        )
        created = _Pool(target, connections, time.monotonic() + self._kept_for).enter()
        if not keeps:
            await created.close()  # its connection closes when this request has left the pool
            return created
        # Another request may have created a pool with the same key. Replace that pool.
        expired = [known for known, each in self._pools.items() if each.until < time.monotonic()]
        closing = [self._pools.pop(known) for known in {key, *expired} if known in self._pools]
        self._pools[key] = created
        for each in closing:
            await each.close()
        return created

    async def _target(self, url: httpx.URL, source: str | None) -> Target:
        try:
            return await self.guard.target(url, source)
        except OSError as error:
            reason = f"cannot resolve {guard.origin(url)}: {error}"
            raise self.library.http.ConnectError(reason) from error

    async def _send(self, request: Any, pool: _Pool, progress: Progress) -> tuple[Any, str]:
        """Return the response, and the IP address of the server."""
        library = self.library

        async def trace(name: str, info: Mapping[str, Any]) -> None:
            if name.endswith("send_request_headers.started"):
                progress.sent = True

        url = request.url
        passed_on = {
            k: v
            for k, v in request.extensions.items()
            if k not in {PROGRESS_EXTENSION, SECRETS_EXTENSION}
        }
        outgoing = library.core.Request(
            method=request.method,
            url=library.core.URL(
                scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
            ),
            headers=request.headers.raw,
            content=request.stream,
            extensions=passed_on | {"trace": trace, "sni_hostname": pool.target.name},
        )
        try:
            incoming = await pool.connections.handle_async_request(outgoing)
        except _core_errors(library) as error:
            raise _to_http_error(library, error) from error
        response = library.http.Response(
            incoming.status,
            headers=incoming.headers,
            stream=library.body(library, incoming, pool),
            extensions=incoming.extensions,
            request=request,
        )
        return response, incoming.extensions["network_stream"].get_extra_info(CONNECTED_ADDRESS)

    def _next(self, request: Any, following: redirects.RedirectedRequest) -> Any:
        http, content = self.library.http, None
        if following.with_body:
            try:
                content = request.content
            except http.RequestNotRead:
                raise http.TransportError(
                    "cannot follow a redirect, because the body was already sent"
                ) from None
        return http.Request(
            following.method,
            str(following.url),
            headers=[each for each in following.headers if each[0].lower() != "content-length"],
            content=content or None,
            extensions=request.extensions,
        )


_Key = tuple[str, str, int | None, bytes]


@dataclass
class _Pool:
    """Connections to one checked target, and the number of requests on them.

    New requests can enter the pool until ``until`` (monotonic seconds). A closed pool closes its
    connections when the last request leaves.
    """

    target: Target
    connections: Any
    until: float
    requests: int = 0
    closed: bool = False

    def enter(self) -> _Pool:
        self.requests += 1
        return self

    async def leave(self) -> None:
        self.requests -= 1
        await self._end()

    async def close(self) -> None:
        self.closed = True
        await self._end()

    async def _end(self) -> None:
        if self.closed and not self.requests:
            await self.connections.aclose()


class PinnedBackend:
    """Network backend that connects to the addresses of ``target`` in order. It resolves no name.

    ``backend`` is the library's own network backend.
    """

    def __init__(self, library: HttpLibrary, target: Target, backend: Any) -> None:
        self._library, self._target, self._backend = library, target, backend

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> Any:
        if port != self._target.port:
            raise RuntimeError(f"port {port} was not checked")
        core = self._library.core
        for left in range(len(self._target.addresses), 0, -1):
            address = self._target.addresses[-left]
            try:
                opened = await self._backend.connect_tcp(
                    address,
                    port,
                    # Divide the timeout, so that an address that never responds leaves time for the
                    # others.
                    timeout=None if timeout is None else timeout / len(self._target.addresses),
                    local_address=local_address,
                    socket_options=socket_options,
                )
            except (core.ConnectError, core.ConnectTimeout):
                if left == 1:
                    raise
            else:
                return self._library.connection(opened, address)
        raise AssertionError("a target has an address")


class PinnedConnection:
    """Network stream with the checked IP address of its connection, also under TLS."""

    def __init__(self, stream: Any, address: str) -> None:
        self._stream, self._address = stream, address

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        part: bytes = await self._stream.read(max_bytes, timeout)
        return part

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> Any:
        encrypted = await self._stream.start_tls(ssl_context, server_hostname, timeout)
        return type(self)(encrypted, self._address)

    def get_extra_info(self, info: str) -> Any:
        return self._address if info == CONNECTED_ADDRESS else self._stream.get_extra_info(info)


class ResponseBody:
    """Stream of a response body.

    When the stream is closed, its request leaves the connection pool.
    """

    def __init__(self, library: HttpLibrary, answer: Any, pool: _Pool) -> None:
        self._library, self._answer = library, answer
        self._pool: _Pool | None = pool

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for part in self._answer.aiter_stream():
                yield part
        except _core_errors(self._library) as error:
            raise _to_http_error(self._library, error) from error

    async def aclose(self) -> None:
        try:
            await self._answer.aclose()
        finally:
            pool, self._pool = self._pool, None
            if pool is not None:
                # Leave the pool only once, even if the stream is closed several times.
                await pool.leave()


def _core_errors(library: HttpLibrary) -> tuple[type[Exception], ...]:
    core = library.core
    return core.TimeoutException, core.NetworkError, core.ProtocolError, core.UnsupportedProtocol


def _to_http_error(library: HttpLibrary, error: BaseException) -> Exception:
    """Return the error of ``library.http`` with the same name as the core's ``error``.

    Drop the text of a local protocol error, because the text could quote a header.
    """
    http = library.http
    kind = getattr(http, type(error).__name__, http.TransportError)
    converted: Exception = kind(
        "" if isinstance(error, library.core.LocalProtocolError) else str(error)
    )
    return converted


def default_ssl_context() -> ssl.SSLContext:
    """Return a context with this machine's certificates, which that of httpcore itself lacks."""
    import httpcore2

    return httpcore2.default_ssl_context()


def _refuse_plain_secret(request: Any, target: Target, secret: frozenset[str], rule: str) -> None:
    """Raise `OutgoingRefused` if a secret would go unencrypted to a public address."""
    if target.url.scheme == "https" or not target.exposed:
        return
    names = {name.lower() for name in request.headers}
    if not names.isdisjoint({"content-length", "transfer-encoding"}):
        names.add(SECRET_BODY)
    if not secret.isdisjoint(names):
        why = "Daybook does not send a secret over plain http to a public address"
        raise OutgoingRefused(guard.origin(target.url), why, rule, "use https")
