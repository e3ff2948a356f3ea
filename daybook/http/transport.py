"""The guarded way out: what `httpx_transport` and `httpx2_transport` share.

::

    request ─► judge the address ─► connect to a judged address ─► send ─► answer ─┬─► returned
                   ▲                                                               │
                   └────────────────────── the next request ◄── a redirect ◄───────┘

httpx2 is a fork of httpx and has its API, as httpcore2 has httpcore's. So the policy is written
once, here and in `guard` and `redirects`; a `Library` names the modules that it works with.

By default each request has a connection of its own: it connects to what was judged, and no request
finds a connection that another was allowed to open. The certificate, SNI and `Host` are the name's.

A sender of thousands of requests to a few hosts may keep connections (``kept_for``): the text of
each address is judged still, its name is looked up only once in so many seconds, and a connection
serves requests of this transport alone, and so of its one rule, to that scheme, name, port and path
alone.
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

PROGRESS = "daybook_progress"
SECRETS = "daybook_secrets"
BODY = ":body"
"""Stands among the `SECRETS` of a request for its body; no header is called so."""
IDLE = 2.0
"""Seconds for which a kept connection may be idle: fewer than any server waits."""
CONNECTED = "daybook_connected"
"""The extra information of a network stream that is the judged address it was connected to."""


@dataclass
class Progress:
    """How far an exchange has come; given in a request's extensions as `PROGRESS`.

    ``sent`` is true from the first byte of a request on, which may have had its effect then, and
    false again when the answer says that it had none and is to be sent elsewhere. ``turned`` names
    each redirect that was followed.
    """

    sent: bool = False
    turned: tuple[str, ...] = ()


@dataclass(frozen=True)
class Library:
    """An HTTP client library: ``http`` is `httpx` or `httpx2`, ``core`` the module below it.

    ``backend``, ``connection`` and ``body`` are the classes of this module as that library has
    them: a network backend, a network stream, and the stream of a response.
    """

    http: Any
    core: Any
    backend: type[PinnedBackend]
    connection: type[JudgedConnection]
    body: type[Body]


class GuardedTransport:
    """Sends to addresses that ``guard`` allows, and follows redirects by itself.

    ``backend`` opens connections to addresses, never to names; ``ssl_context`` says which
    certificates are trusted, this machine's by default. With ``one_origin`` a redirect to another
    origin, and one that would drop the body, is refused: a body with secrets goes to that address
    only. A request's extension `SECRETS`, a collection of header names in lowercase, says which of
    its headers hold secrets: they do not go over plain HTTP to a public address. `BODY` among them
    stands for the request's body.

    With ``follow=False`` an answer that redirects is returned as it is. With ``kept_for``
    connections are kept for so many seconds after their address was judged; the transport has to be
    closed then (`aclose`).

    Raises `InvalidInput` and `OutgoingRefused`, and the library's `TransportError`.
    """

    library: ClassVar[Library]

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

    async def send(self, request: Any) -> Any:
        """Send the library's request, and what its redirects ask for; return the last response."""
        progress = request.extensions.get(PROGRESS) or Progress()
        secret = frozenset(request.extensions.get(SECRETS, ()))
        source: str | None = None
        while True:
            url = self._judged_text(request.url)
            pool = await self._pool(url, source)
            try:
                _keep_secret(request, pool.target, secret, self.guard.rule)
                response, source = await self._send(request, pool, progress)
            except BaseException:
                await pool.leave()
                raise
            where = redirects.location(response.status_code, response.headers)
            if where is None or not self._follow:
                return response
            await response.aclose()
            following = redirects.follow(
                response.status_code,
                where,
                method=request.method,
                url=url,
                headers=request.headers.multi_items(),
                rule=self.guard.rule,
            )
            progress.sent = following.had
            if self._one_origin and not following.as_it_is:
                why = "a redirect to another address, or of another method, is not followed"
                raise OutgoingRefused(guard.origin(following.url), why, self.guard.rule)
            if len(progress.turned) == redirects.MOST:
                why = f"more than {redirects.MOST} redirects"
                raise OutgoingRefused(guard.origin(following.url), why, self.guard.rule)
            progress.turned += (_turn(response.status_code, following, request.method),)
            request = self._next(request, following)

    async def aclose(self) -> None:
        """Close the kept connections; requests under way go on to their end."""
        pools, self._pools = list(self._pools.values()), {}
        for pool in pools:
            await pool.close()

    def _judged_text(self, url: Any) -> httpx.URL:
        """The address as the guard reads it. Raise `InvalidInput` if the library reads another."""
        if isinstance(url, httpx.URL):
            return url
        read = httpx.URL(str(url))
        parts = [(each.scheme, each.raw_host, each.port, each.raw_path) for each in (read, url)]
        if parts[0] != parts[1]:
            raise InvalidInput("url", "can be read in two ways", "write it plainly")
        return read

    async def _pool(self, url: httpx.URL, source: str | None) -> _Pool:
        """The connections to take for ``url``: judged, and entered, so that they have to be left.

        ``source`` is the address of the server that redirected here.
        """
        # By path as well: a pool looks at each of its connections for every request.
        key = url.scheme, guard.name_of(url), url.port, url.raw_path.partition(b"?")[0]
        pool = self._pools.get(key) if source is None else None
        if pool is not None and time.monotonic() < pool.until:
            self.guard.check(url)  # the text is judged each time
            return pool.enter()
        target = await self._target(url, source)
        if target.url.scheme == "https" and self._ssl_context is None:
            self._ssl_context = _trusted()
        keeps = self._kept_for > 0 and source is None
        connections = self.library.core.AsyncConnectionPool(
            ssl_context=self._ssl_context,
            max_connections=None if keeps else 1,
            max_keepalive_connections=None if keeps else 0,
            keepalive_expiry=IDLE if keeps else None,
            network_backend=self.library.backend(self.library, target, self._backend),
        )
        made = _Pool(target, connections, time.monotonic() + self._kept_for).enter()
        if not keeps:
            await made.close()  # as soon as this one request has left it
            return made
        # Another request may have judged the same meanwhile: either will do.
        over = [known for known, each in self._pools.items() if each.until < time.monotonic()]
        closing = [self._pools.pop(known) for known in {key, *over} if known in self._pools]
        self._pools[key] = made
        for each in closing:
            await each.close()
        return made

    async def _target(self, url: httpx.URL, source: str | None) -> Target:
        try:
            return await self.guard.target(url, source)
        except OSError as error:
            told = f"{guard.origin(url)} is not found: {error}"
            raise self.library.http.ConnectError(told) from error

    async def _send(self, request: Any, pool: _Pool, progress: Progress) -> tuple[Any, str]:
        """The response, and the address that was connected to."""
        library = self.library

        async def trace(name: str, info: Mapping[str, Any]) -> None:
            if name.endswith("send_request_headers.started"):
                progress.sent = True

        url = request.url
        kept = {k: v for k, v in request.extensions.items() if k not in {PROGRESS, SECRETS}}
        asked = library.core.Request(
            method=request.method,
            url=library.core.URL(
                scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
            ),
            headers=request.headers.raw,
            content=request.stream,
            extensions=kept | {"trace": trace, "sni_hostname": pool.target.name},
        )
        try:
            answer = await pool.connections.handle_async_request(asked)
        except _core_errors(library) as error:
            raise _http_error(library, error) from error
        response = library.http.Response(
            answer.status,
            headers=answer.headers,
            stream=library.body(library, answer, pool),
            extensions=answer.extensions,
            request=request,
        )
        return response, answer.extensions["network_stream"].get_extra_info(CONNECTED)

    def _next(self, request: Any, following: redirects.Next) -> Any:
        http, content = self.library.http, None
        if following.with_body:
            try:
                content = request.content
            except http.RequestNotRead:
                raise http.TransportError("a redirect, and the body is not there anymore") from None
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
    """Connections to one judged target, and how many requests are on them.

    New requests enter it until ``until``; closed, it lasts until the last request leaves.
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
    """Connects to the addresses of ``target``, one after the other, whatever the name means now.

    ``backend`` is the library's own network backend.
    """

    def __init__(self, library: Library, target: Target, backend: Any) -> None:
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
            raise RuntimeError(f"port {port} was not judged")
        core = self._library.core
        for left in range(len(self._target.addresses), 0, -1):
            address = self._target.addresses[-left]
            try:
                opened = await self._backend.connect_tcp(
                    address,
                    port,
                    # One that never answers leaves time for the others.
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


class JudgedConnection:
    """A connection that knows the judged address it was opened to, also with TLS over it."""

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
        return self._address if info == CONNECTED else self._stream.get_extra_info(info)


class Body:
    """The body of an answer; closing it leaves the pool that it came by."""

    def __init__(self, library: Library, answer: Any, pool: _Pool) -> None:
        self._library, self._answer = library, answer
        self._pool: _Pool | None = pool

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for part in self._answer.aiter_stream():
                yield part
        except _core_errors(self._library) as error:
            raise _http_error(self._library, error) from error

    async def aclose(self) -> None:
        try:
            await self._answer.aclose()
        finally:
            pool, self._pool = self._pool, None
            if pool is not None:  # closed once, however often it is asked for
                await pool.leave()


def _core_errors(library: Library) -> tuple[type[Exception], ...]:
    core = library.core
    return core.TimeoutException, core.NetworkError, core.ProtocolError, core.UnsupportedProtocol


def _http_error(library: Library, error: BaseException) -> Exception:
    """The error of the same name. A protocol error of our own making could quote a header."""
    http = library.http
    kind = getattr(http, type(error).__name__, http.TransportError)
    made: Exception = kind("" if isinstance(error, library.core.LocalProtocolError) else str(error))
    return made


def _trusted() -> ssl.SSLContext:
    """The certificates of this machine, for either library: httpcore's own default differs."""
    import httpcore2

    return httpcore2.default_ssl_context()


def _keep_secret(request: Any, target: Target, secret: frozenset[str], rule: str) -> None:
    """Raise where a secret would go unencrypted through the internet."""
    if target.url.scheme == "https" or not target.exposed:
        return
    names = {name.lower() for name in request.headers}
    if not secret.isdisjoint(names | {BODY} if "content-length" in names else names):
        why = "a secret does not go over plain http to a public address"
        raise OutgoingRefused(guard.origin(target.url), why, rule, "legal: https")


def _turn(status: int, following: redirects.Next, method: str) -> str:
    turned = f"{status} to {guard.origin(following.url)}"
    return turned if following.method == method else f"{turned}, asked as {following.method}"
