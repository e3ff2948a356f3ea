"""The MCP server over streamable HTTP, at `/mcp`, for clients with a bearer token.

The server has no sessions, so no client can use the session of another token. It keeps no state
between requests, so it allows only POST. The response to `subscriptions/listen` is a stream. The
stream ends if the client disconnects or does not read, if its token becomes invalid, if one of its
resources is deleted, or if this server stops. A client with a protocol version before
2026-07-28 may request a stream by GET; it gets the status 405.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from typing import Any

import uvicorn
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount
from starlette.types import ASGIApp, Receive, Scope, Send

from daybook.api import tokens
from daybook.errors import LedgerError, LedgerUnreachable
from daybook.ledger.engine import Ledger
from daybook.mcp import server
from daybook.mcp.resources import AllResources, Clients, Context
from daybook.operations import connections, web
from daybook.operations.host_names import AllowedNames
from daybook.owners import Actor

PATH = "/mcp"

MAX_BODY_BYTES = 2**20
"""Maximum size of a request's body.

The server reads the body only after it has verified the token.
"""

MAX_REQUESTS = connections.MAX_REQUESTS
"""Maximum number of concurrent requests, including streams. Further requests get the status 503."""
MAX_REQUESTS_PER_OWNER = 40
"""Maximum number of concurrent requests per owner, with all its tokens.

Others get the status 429.
"""
MAX_STREAMS = MAX_REQUESTS // 2
"""Maximum number of streams. Streams last long; the other requests remain for calls of tools."""
MAX_STREAMS_PER_OWNER = 10
"""Maximum number of streams per owner."""

_ACTOR = "daybook.actor"
_HEADERS = {"cache-control": "no-store", "x-content-type-options": "nosniff"}
_CLOSE = _HEADERS | {"connection": "close"}


class BearerGuard:
    """ASGI application that checks the host name and the token, and acts for the token's owner.

    It also limits the concurrent requests of each owner. Requests without a token, with a wrong
    token, and with a removed token get the same response.
    """

    def __init__(self, ledger: Ledger, names: AllowedNames) -> None:
        self._ledger, self._names = ledger, names
        clients = Clients(
            _actor_of,
            lambda: nullcontext(ledger),
            MAX_STREAMS,
            MAX_STREAMS_PER_OWNER,
            self._still_allowed,
        )
        self.resources = AllResources(clients)
        self._application = _application(clients, self.resources)
        self._owners = connections.RequestSlots(MAX_REQUESTS, MAX_REQUESTS_PER_OWNER)

    @property
    def owners(self) -> Mapping[str, int]:
        """Return the number of concurrent requests of each owner."""
        return self._owners.taken

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            return
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        if (refused := await self._refusal(scope)) is not None:
            await refused(scope, receive, send)
            return
        owner = scope[_ACTOR].owner
        with self._owners.slot(owner) as free:
            if free:
                await self._application(scope, receive, send)
                return
        message = (
            f"{owner} already has {MAX_REQUESTS_PER_OWNER} requests in progress, the maximum for "
            "one owner"
        )
        await connections.unavailable(message, 429)(scope, receive, send)

    async def _refusal(self, scope: Scope) -> Response | None:
        if reason := self._names.refusal(scope):
            return PlainTextResponse(f"{reason}\n", 403, _CLOSE)
        try:
            actor = await self._find_actor(scope)
        except (LedgerUnreachable, LedgerError):
            return PlainTextResponse("the ledger does not answer\n", 503, _CLOSE)
        if actor is None:
            message = "a token is required; create one: daybook tokens add --owner agent:…\n"
            return PlainTextResponse(message, 401, _CLOSE | {"www-authenticate": "Bearer"})
        if scope["path"].rstrip("/") != PATH:
            return PlainTextResponse(f"not found; use {PATH}\n", 404, _CLOSE)
        if scope["method"] != "POST":
            return PlainTextResponse("use POST\n", 405, _CLOSE | {"allow": "POST"})
        scope[_ACTOR] = actor
        return None

    async def _still_allowed(self, context: Context) -> bool:
        """Return whether the token that opened a stream is still valid for the same actor."""
        assert context.request is not None
        return await self._find_actor(context.request.scope) == _actor_of(context)

    async def _find_actor(self, scope: Scope) -> Actor | None:
        credentials = [
            value for name, value in scope["headers"] if name.lower() == b"authorization"
        ]
        kind, _, token = (credentials[0] if len(credentials) == 1 else b"").partition(b" ")
        if kind.lower() != b"bearer" or not token.strip():
            return None
        return await tokens.authenticate(self._ledger, token.strip().decode("latin-1"))


def application(ledger: Ledger, names: AllowedNames) -> BearerGuard:
    """Return the application. ``ledger`` must be open; it contains the tokens."""
    return BearerGuard(ledger, names)


def _application(clients: Clients, resources: AllResources) -> ASGIApp:
    manager = StreamableHTTPSessionManager(
        server.build_server(clients, resources, keeps=False),
        json_response=True,
        stateless=True,
        max_request_body_size=MAX_BODY_BYTES,
    )

    routes = [Mount("/", app=manager.handle_request)]
    return Starlette(routes=routes, lifespan=lambda _: manager.run())


def _actor_of(context: Context) -> Actor:
    """Return the actor of the request, which `BearerGuard` has put into the request's scope."""
    actor = context.request.scope[_ACTOR] if context.request is not None else None
    assert isinstance(actor, Actor)
    return actor


def build_server(
    guarded: BearerGuard, *, started: Callable[[], None] = lambda: None, **limits: Any
) -> uvicorn.Server:
    """Return the server of the application, with the limits of `connections.server_config`.

    The server calls ``started`` when it listens. From then on, Ctrl-C stops it gracefully. Its
    shutdown ends all streams.
    """

    class AnnouncingServer(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                started()

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            guarded.resources.end()
            await super().shutdown(sockets)

    return AnnouncingServer(
        connections.server_config(guarded, graceful=5, log_config=None, **limits)
    )


async def serve(address: str, host: str, port: int, names: Iterable[str] = ()) -> None:
    """Serve MCP for the ledger at ``address`` until the server is stopped.

    ``names`` are further host names under which clients may address the server. Raise
    `InvalidInput` if the server cannot listen on ``host`` and ``port``, and the errors of a ledger
    that cannot be opened.
    """
    is_remote = not web.is_local(host)

    def announce() -> None:
        print(f"MCP: {web.url(host, port)}{PATH}", file=sys.stderr, flush=True)
        if is_remote:
            message = (
                "This server receives tokens unencrypted. Put a proxy with TLS in front of it."
            )
            print(message, file=sys.stderr, flush=True)

    async with Ledger(address) as ledger:
        listener = web.listen(host, port)
        host_names = [*names, host, *([socket.gethostname()] if is_remote else [])]
        guarded = application(ledger, AllowedNames(host_names, any_address=is_remote))
        await build_server(guarded, started=announce).serve(sockets=[listener])
