"""The server over streamable HTTP, at `/mcp`, for who shows a token.

Each request stands alone: no sessions that a strange token could take over, nothing to keep. So
only POST is answered. The answer to `subscriptions/listen` is a stream, which lasts as long as its
client, its token and this server; a client of before 2026-07-28 that asks for one by GET is told
that there is none.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, nullcontext
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
from daybook.mcp.resources import Context, Sessions
from daybook.mcp.wakes import Wakes
from daybook.operations import connections, web
from daybook.operations.host_names import AllowedNames
from daybook.owners import Actor

PATH = "/mcp"

LONGEST_BODY = 2**20
"""Bytes of a request; it is read after the token is known."""

MOST = connections.MAX_REQUESTS
"""How many requests, streams included, are in progress at once; one more is answered 503."""
OWNER = 40
"""How many of them may be of one owner, whatever tokens it shows; one more is answered 429."""
STREAMS = MOST // 2
"""How many of them may be streams, which last: the others have room for their requests."""
SHARE = 10
"""How many of these may be of one owner."""

_ACTOR = "daybook.actor"
_HEADERS = {"cache-control": "no-store", "x-content-type-options": "nosniff"}
_CLOSE = _HEADERS | {"connection": "close"}


class Gate:
    """ASGI middleware: what is let in, for a name that is ours, and for whom.

    Whoever shows no token, a wrong one or one that was removed reads the same answer.
    """

    def __init__(self, ledger: Ledger, names: AllowedNames) -> None:
        self._ledger, self._names = ledger, names
        self.wakes = Wakes(lambda: nullcontext(ledger), STREAMS, SHARE)
        self._application = _application(ledger, Sessions(_whose, self.wakes, self._still))
        self._owners = connections.RequestSlots(MOST, OWNER)

    @property
    def owners(self) -> Mapping[str, int]:
        """How many requests of each owner are in progress."""
        return self._owners.taken

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            return
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        if (refused := await self._refused(scope)) is not None:
            await refused(scope, receive, send)
            return
        owner = scope[_ACTOR].owner
        with self._owners.place(owner) as free:
            if free:
                await self._application(scope, receive, send)
                return
        told = f"{OWNER} requests of {owner} are in progress already, which is its share"
        await connections.unavailable(told, 429)(scope, receive, send)

    async def _refused(self, scope: Scope) -> Response | None:
        if why := self._names.refusal(scope):
            return PlainTextResponse(f"{why}\n", 403, _CLOSE)
        try:
            actor = await self._bearer(scope)
        except (LedgerUnreachable, LedgerError):
            return PlainTextResponse("the ledger does not answer\n", 503, _CLOSE)
        if actor is None:
            told = "a token is needed; the operator makes one: daybook tokens add --owner agent:…\n"
            return PlainTextResponse(told, 401, _CLOSE | {"www-authenticate": "Bearer"})
        if scope["path"].rstrip("/") != PATH:
            return PlainTextResponse(f"here is {PATH}\n", 404, _CLOSE)
        if scope["method"] != "POST":
            return PlainTextResponse("POST\n", 405, _CLOSE | {"allow": "POST"})
        scope[_ACTOR] = actor
        return None

    async def _still(self, context: Context) -> bool:
        """Whether the bearer of the token that opened a stream would be let in now."""
        assert context.request is not None
        return await self._bearer(context.request.scope) == _whose(context)

    async def _bearer(self, scope: Scope) -> Actor | None:
        shown = [value for name, value in scope["headers"] if name.lower() == b"authorization"]
        kind, _, token = (shown[0] if len(shown) == 1 else b"").partition(b" ")
        if kind.lower() != b"bearer" or not token.strip():
            return None
        return await tokens.authenticate(self._ledger, token.strip().decode("latin-1"))


def application(ledger: Ledger, names: AllowedNames) -> Gate:
    """The application; it opens and closes ``ledger``, by which it knows tokens."""
    return Gate(ledger, names)


def _application(ledger: Ledger, sessions: Sessions) -> ASGIApp:
    manager = StreamableHTTPSessionManager(
        server.make(_whose, sessions, keeps=False),
        json_response=True,
        stateless=True,
        max_request_body_size=LONGEST_BODY,
    )

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with ledger, manager.run():
            yield

    routes = [Mount("/", app=manager.handle_request)]
    return Starlette(routes=routes, lifespan=lifespan)


def _whose(context: Context) -> Actor:
    """That of the token, which the gate has written into the request."""
    actor = context.request.scope[_ACTOR] if context.request is not None else None
    assert isinstance(actor, Actor)
    return actor


def serving(
    guarded: Gate, *, started: Callable[[], None] = lambda: None, **limits: Any
) -> uvicorn.Server:
    """The server of it, with the limits of `connections.server_config`. As it ends, its streams do.

    ``started`` is called when it listens and Ctrl-C ends it in order.
    """

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                started()

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            guarded.wakes.end()
            await super().shutdown(sockets)

    return Server(connections.server_config(guarded, graceful=5, log_config=None, **limits))


async def serve(address: str, host: str, port: int, names: Iterable[str] = ()) -> None:
    """Listen until told to end; ``address`` is the ledger's. Raises `InvalidInput`."""
    elsewhere = not web.is_local(host)
    listener = web.listen(host, port)
    known = [*names, host, *([socket.gethostname()] if elsewhere else [])]
    guarded = application(Ledger(address), AllowedNames(known, any_address=elsewhere))

    def say() -> None:
        print(f"MCP: {web.url(host, port)}{PATH}", file=sys.stderr, flush=True)
        if elsewhere:
            told = "Tokens come in as they are sent here: have a proxy with TLS in front."
            print(told, file=sys.stderr, flush=True)

    await serving(guarded, started=say).serve(sockets=[listener])
