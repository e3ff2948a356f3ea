"""The server over streamable HTTP, at `/mcp`, for who shows a token.

Each request stands alone: no sessions that a strange token could take over, nothing to keep. So
only POST is answered. The answer to `subscriptions/listen` is a stream, which lasts as long as its
client, its token and this server; a client of before 2026-07-28 that asks for one by GET is told
that there is none.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, nullcontext

import uvicorn
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount
from starlette.types import ASGIApp, Receive, Scope, Send

from daybook.errors import LedgerError, LedgerUnreachable
from daybook.host import web
from daybook.host.names import Names
from daybook.ledger.engine import Ledger
from daybook.mcp import heads, server
from daybook.mcp.resources import Context, Sessions
from daybook.mcp.wakes import Wakes
from daybook.service import tokens
from daybook.spec.owners import Actor

PATH = "/mcp"

LONGEST_BODY = 2**20
"""Bytes of a request; it is read after the token is known."""

MOST = 100
"""How many connections are open at once; one more is answered 503."""
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

    def __init__(self, ledger: Ledger, names: Names) -> None:
        self._ledger, self._names = ledger, names
        self.wakes = Wakes(lambda: nullcontext(ledger), STREAMS, SHARE)
        self._application = _application(ledger, Sessions(_whose, self.wakes, self._still))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (refused := await self._refused(scope)) is not None:
            await refused(scope, receive, send)
        elif scope["type"] != "websocket":
            await self._application(scope, receive, send)

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
        return await tokens.bearer(self._ledger, token.strip().decode("latin-1"))


def application(ledger: Ledger, names: Names) -> Gate:
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


def serving(guarded: Gate, *, most: int = MOST, patience: float = heads.PATIENCE) -> uvicorn.Server:
    """The server of it: it says nothing of itself, and logs no requests.

    ``most`` connections are open at once; each has ``patience`` seconds for a request's head. As it
    ends, its streams do.
    """

    class Patient(heads.Heads):
        pass

    Patient.patience = patience

    class Server(uvicorn.Server):
        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            guarded.wakes.end()
            await super().shutdown(sockets)

    config = uvicorn.Config(
        guarded,
        http=Patient,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=most,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=5,
        h11_max_incomplete_event_size=16_384,
    )
    return Server(config)


async def serve(address: str, host: str, port: int, names: Iterable[str] = ()) -> None:
    """Listen until told to end; ``address`` is the ledger's. Raises `Refused`."""
    elsewhere = not web.is_local(host)
    listener = web.listen(host, port)
    known = [*names, host, *([socket.gethostname()] if elsewhere else [])]
    guarded = application(Ledger(address), Names(known, any_address=elsewhere))
    print(f"MCP: {web.url(host, port)}{PATH}", file=sys.stderr, flush=True)
    if elsewhere:
        told = "Tokens come in as they are sent here: have a proxy with TLS in front."
        print(told, file=sys.stderr, flush=True)
    await serving(guarded).serve(sockets=[listener])
