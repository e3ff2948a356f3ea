"""The way out, for `httpx2` and for whoever uses it, such as MCP clients.

::

    request ─► judge the address ─► connect to a judged address ─► send ─► answer ─┬─► returned
                   ▲                                                               │
                   └────────────────────── the next request ◄── a redirect ◄───────┘

Each request has a connection of its own: what was judged is what is connected to, and no request
finds a connection that another was allowed to open. The certificate, SNI and `Host` are the name's.

Who sends thousands of requests to a few hosts may keep connections (``kept_for``): the text of each
address is judged still, what its host means only once in so many seconds, and a connection serves
requests of this transport alone, and so of its one rule, to that scheme, name, port and path alone.

`GuardedTransport.client` is the only right way to an `httpx2.AsyncClient` over it: with the
environment, a client sets up proxies beside its transport and reads `.netrc`.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import httpcore2
import httpx2

from daybook.errors import OutgoingRefused
from daybook.outgoing import guard, redirects
from daybook.outgoing.guard import Guard, Target

PROGRESS = "daybook_progress"
SECRETS = "daybook_secrets"
BODY = ":body"
"""Stands among the `SECRETS` of a request for its body; no header is called so."""
IDLE = 2.0
"""Seconds for which a kept connection may be idle: fewer than any server waits."""


@dataclass
class Progress:
    """How far an exchange has come; given in a request's extensions as `PROGRESS`.

    ``sent`` is true from the first byte of a request on, which may have had its effect then, and
    false again when the answer says that it had none and is to be sent elsewhere. ``turned`` names
    each redirect that was followed.
    """

    sent: bool = False
    turned: tuple[str, ...] = ()


class GuardedTransport(httpx2.AsyncBaseTransport):
    """Sends to addresses that ``guard`` allows, and follows redirects by itself.

    ``backend`` opens connections to addresses, never to names; ``ssl_context`` says which
    certificates are trusted, this machine's by default. With ``one_origin`` a redirect to another
    origin, and one that would drop the body, is refused: who sends secrets in a body sends them to
    that address only. A request's extension `SECRETS`, a
    collection of header names in lowercase, says which of its headers hold secrets: they do not go
    over plain HTTP to a public address. `BODY` among them stands for the request's body.

    With ``follow=False`` an answer that redirects is returned as it is. With ``kept_for``
    connections are kept for so many seconds after their address was judged; it is to be closed then
    (`aclose`).

    Raises `Refused` and `OutgoingRefused`, and `httpx2.TransportError`.
    """

    def __init__(
        self,
        guard: Guard,
        *,
        backend: httpcore2.AsyncNetworkBackend | None = None,
        ssl_context: ssl.SSLContext | None = None,
        one_origin: bool = False,
        follow: bool = True,
        kept_for: float = 0.0,
    ) -> None:
        self.guard = guard
        self._one_origin, self._follow = one_origin, follow
        self._kept_for = kept_for
        self._ways: dict[_Place, _Way] = {}
        self._backend = backend or httpcore2.AnyIOBackend()
        self._ssl_context = ssl_context

    def client(self, **given: Any) -> httpx2.AsyncClient:
        """A client that has no other way; ``given`` are its other arguments.

        It fits where fastmcp and mcp want a factory of clients: what they say of redirects is left
        to this transport.
        """
        given |= {"transport": self, "trust_env": False, "follow_redirects": False}
        return httpx2.AsyncClient(**given)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        progress = request.extensions.get(PROGRESS) or Progress()
        secret = frozenset(request.extensions.get(SECRETS, ()))
        before: Target | None = None
        while True:
            way = await self._way(request.url, before)
            try:
                _keep_secret(request, way.target, secret, self.guard.rule)
                response = await self._send(request, way, progress)
            except BaseException:
                await way.left()
                raise
            where = redirects.location(response.status_code, response.headers)
            if where is None or not self._follow:
                return response
            await response.aclose()
            following = redirects.follow(
                response.status_code,
                where,
                method=request.method,
                url=request.url,
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
            request = _next(request, following)
            before = way.target

    async def aclose(self) -> None:
        """Close what was kept; what is under way goes on to its end."""
        ways, self._ways = list(self._ways.values()), {}
        for way in ways:
            await way.close()

    async def _way(self, url: httpx2.URL, before: Target | None) -> _Way:
        """The connections to take for ``url``: judged, and to be left again."""
        # By path as well: a pool looks at each of its connections for every request.
        place = url.scheme, guard.name_of(url), url.port, url.raw_path.partition(b"?")[0]
        way = self._ways.get(place) if before is None else None
        if way is not None and time.monotonic() < way.until:
            self.guard.check(url)  # what can be judged by its text is judged each time
            return way.entered()
        target = await self._target(url, before)
        if target.url.scheme == "https" and self._ssl_context is None:
            self._ssl_context = httpcore2.default_ssl_context()
        keeps = self._kept_for > 0 and before is None
        pool = httpcore2.AsyncConnectionPool(
            ssl_context=self._ssl_context,
            max_connections=None if keeps else 1,
            max_keepalive_connections=None if keeps else 0,
            keepalive_expiry=IDLE if keeps else None,
            network_backend=_Pinned(target, self._backend),
        )
        made = _Way(target, pool, time.monotonic() + self._kept_for).entered()
        if not keeps:
            await made.close()  # as soon as this one request has left it
            return made
        # Another request may have judged the same meanwhile: either will do.
        over = [known for known, each in self._ways.items() if each.until < time.monotonic()]
        closing = [self._ways.pop(known) for known in {place, *over} if known in self._ways]
        self._ways[place] = made
        for each in closing:
            await each.close()
        return made

    async def _target(self, url: httpx2.URL, before: Target | None) -> Target:
        try:
            return await self.guard.target(url, before)
        except OSError as error:
            raise httpx2.ConnectError(f"{guard.origin(url)} is not found: {error}") from error

    async def _send(
        self, request: httpx2.Request, way: _Way, progress: Progress
    ) -> httpx2.Response:
        async def trace(name: str, info: Mapping[str, Any]) -> None:
            if name.endswith("send_request_headers.started"):
                progress.sent = True

        url = request.url
        kept = {k: v for k, v in request.extensions.items() if k not in {PROGRESS, SECRETS}}
        asked = httpcore2.Request(
            method=request.method,
            url=httpcore2.URL(
                scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
            ),
            headers=request.headers.raw,
            content=request.stream,
            extensions=kept | {"trace": trace, "sni_hostname": way.target.name},
        )
        try:
            answer = await way.pool.handle_async_request(asked)
        except _THEIRS as error:
            raise _ours(error) from error
        return httpx2.Response(
            answer.status,
            headers=answer.headers,
            stream=_Stream(answer, way),
            extensions=answer.extensions,
            request=request,
        )


_Place = tuple[str, str, int | None, bytes]


@dataclass
class _Way:
    """Connections to one judged target, and how many requests are on them.

    It is taken until ``until``; closed, it lasts until the last request has left it.
    """

    target: Target
    pool: httpcore2.AsyncConnectionPool
    until: float
    requests: int = 0
    closed: bool = False

    def entered(self) -> _Way:
        self.requests += 1
        return self

    async def left(self) -> None:
        self.requests -= 1
        await self._end()

    async def close(self) -> None:
        self.closed = True
        await self._end()

    async def _end(self) -> None:
        if self.closed and not self.requests:
            await self.pool.aclose()


class _Pinned(httpcore2.AsyncNetworkBackend):
    """Connects to the addresses of ``target``, one after the other, whatever the name means now."""

    def __init__(self, target: Target, backend: httpcore2.AsyncNetworkBackend) -> None:
        self._target = target
        self._backend = backend

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        if port != self._target.port:
            raise RuntimeError(f"port {port} was not judged")
        for left in range(len(self._target.addresses), 0, -1):
            try:
                return await self._backend.connect_tcp(
                    self._target.addresses[-left],
                    port,
                    # One that never answers leaves time for the others.
                    timeout=None if timeout is None else timeout / len(self._target.addresses),
                    local_address=local_address,
                    socket_options=socket_options,
                )
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout):
                if left == 1:
                    raise
        raise AssertionError("a target has an address")


class _Stream(httpx2.AsyncByteStream):
    """An answer's body; closing it leaves the way that it came."""

    def __init__(self, answer: httpcore2.Response, way: _Way) -> None:
        self._answer = answer
        self._way: _Way | None = way

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for part in self._answer.aiter_stream():
                yield part
        except _THEIRS as error:
            raise _ours(error) from error

    async def aclose(self) -> None:
        try:
            await self._answer.aclose()
        finally:
            way, self._way = self._way, None
            if way is not None:  # closed once, however often it is asked for
                await way.left()


_THEIRS = (
    httpcore2.TimeoutException,
    httpcore2.NetworkError,
    httpcore2.ProtocolError,
    httpcore2.UnsupportedProtocol,
)


def _ours(error: BaseException) -> httpx2.TransportError:
    """The error of the same name. A protocol error of our own making could quote a header."""
    kind = getattr(httpx2, type(error).__name__, httpx2.TransportError)
    said = "" if isinstance(error, httpcore2.LocalProtocolError) else str(error)
    made: httpx2.TransportError = kind(said)
    return made


def _keep_secret(
    request: httpx2.Request, target: Target, secret: frozenset[str], rule: str
) -> None:
    """Raise where a secret would go unencrypted through the internet."""
    if target.url.scheme == "https" or not target.public or target.excepted:
        return
    names = {name.lower() for name in request.headers}
    if not secret.isdisjoint(names | {BODY} if "content-length" in names else names):
        why = "a secret does not go over plain http to a public address"
        raise OutgoingRefused(guard.origin(request.url), why, rule, "legal: https")


def _turn(status: int, following: redirects.Next, method: str) -> str:
    turned = f"{status} to {guard.origin(following.url)}"
    return turned if following.method == method else f"{turned}, asked as {following.method}"


def _next(request: httpx2.Request, following: redirects.Next) -> httpx2.Request:
    content = None
    if following.with_body:
        try:
            content = request.content
        except httpx2.RequestNotRead:
            raise httpx2.TransportError("a redirect, and the body is not there anymore") from None
    return httpx2.Request(
        following.method,
        following.url,
        headers=[each for each in following.headers if each[0].lower() != "content-length"],
        content=content or None,
        extensions=request.extensions,
    )
