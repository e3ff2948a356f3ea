"""The ASGI application: `/health`, `/metrics`, endpoints, pages; its guard and its server."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import cast

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from daybook.diagnosis.health import HealthMonitor
from daybook.errors import DaybookError
from daybook.operations import connections
from daybook.operations.host_names import AllowedNames
from daybook.web import live, metrics
from daybook.web.endpoint import Endpoint
from daybook.web.path_prefix import PathPrefix

_HEADERS = {"cache-control": "no-store", "x-content-type-options": "nosniff"}


def application(
    watch: HealthMonitor,
    endpoints: Sequence[Endpoint] = (),
    pages: ASGIApp | None = None,
    on_close: Callable[[], Awaitable[None]] | None = None,
) -> Starlette:
    """Return the application. The caller has to wrap it in `RequestGuard`.

    The application starts ``watch`` when the server starts. When the server stops, it closes
    ``endpoints`` and ``watch``, and calls ``on_close``. ``pages`` answers every path that is not an
    endpoint; without ``pages``, the answer is 404.
    """

    async def health(request: Request) -> Response:
        report = await watch.health()
        status = 200 if report.status == "ok" else 503
        return JSONResponse(report.model_dump(mode="json"), status, _HEADERS)

    async def prometheus(request: Request) -> Response:
        try:
            snapshot = await watch.snapshot()
        except DaybookError:
            snapshot = None  # a failed scrape would not show the cause
        accept = request.headers.get("accept", "")
        text, content_type = metrics.page(snapshot, accept, endpoints)
        return Response(text, 200, _HEADERS | {"content-type": content_type})

    async def not_found(request: Request, error: Exception) -> Response:
        paths = ["/health", "/metrics", *(f"{each.path}<name>" for each in endpoints)]
        known = f"{', '.join(paths[:-1])} or {paths[-1]}"
        return PlainTextResponse(f"not found; use {known}\n", 404, _HEADERS)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        watch.start()
        try:
            yield
        finally:
            async with AsyncExitStack() as stack:  # it calls all, even if one of them fails
                if on_close is not None:
                    stack.push_async_callback(on_close)
                stack.push_async_callback(watch.close)
                for each in endpoints:
                    stack.push_async_callback(each.close)

    return Starlette(
        routes=[
            Route("/health", health),
            Route("/metrics", prometheus),
            *(Route(f"{each.path}{{name}}", each.receive, methods=["POST"]) for each in endpoints),
            *([Mount("/", pages)] if pages is not None else []),
        ],
        exception_handlers={404: not_found},
        lifespan=lifespan,
    )


class PageServer(connections.Server):
    """HTTP server that calls ``on_stop`` when its shutdown starts, so that streams can end."""

    on_stop: Callable[[], None] | None = None

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Call ``on_stop``, and wait until the open requests have ended, for at most 1 s."""
        if self.on_stop is not None:
            self.on_stop()
        await super().shutdown(sockets)


def build_server(
    guarded: ASGIApp,
    endpoints: Sequence[Endpoint] = (),
    on_stop: Callable[[], None] | None = None,
    public_url: str = "",
) -> PageServer:
    """Return the HTTP server for the guarded application with these ``endpoints``."""
    paths = tuple(each.path for each in endpoints)
    config = connections.server_config(
        guarded,
        graceful=1,
        has_own_limits=lambda path: path == live.PATH or path.startswith(paths),
        log_level="warning",
        log_config=None,
    )
    config.app = PathPrefix(cast(ASGIApp, config.app), public_url)  # the limits know no prefix
    server = PageServer(config)
    server.on_stop = on_stop
    return server


_CLOSE = {"connection": "close"}


class RequestGuard:
    """ASGI middleware that accepts only GET and HEAD without a body, for the allowed host names.

    It ignores web sockets. `AllowedNames` documents ``names`` and ``any_address``. There are two
    exceptions. A POST to one of the ``endpoints`` is accepted; the endpoint limits its body. If
    ``accepts_writes`` returns True for a path, a request for the path may have any method and a
    body; the application of the path limits both.
    """

    def __init__(
        self,
        application: ASGIApp,
        names: Iterable[str] = (),
        *,
        endpoints: Sequence[Endpoint] = (),
        any_address: bool = False,
        accepts_writes: Callable[[str], bool] = lambda path: False,
    ) -> None:
        self._application = application
        self._names = AllowedNames(names, any_address=any_address)
        self._paths = tuple(each.path for each in endpoints)
        self._accepts_writes = accepts_writes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (response := self._refusal(scope)) is not None:
            await response(scope, receive, send)
        elif scope["type"] != "websocket":
            await self._application(scope, receive, send)

    def _refusal(self, scope: Scope) -> PlainTextResponse | None:
        if why := self._names.refusal(scope):
            return PlainTextResponse(f"{why}\n", 403, _CLOSE)
        is_for_endpoint = scope["path"].startswith(self._paths) and scope["method"] == "POST"
        if is_for_endpoint or self._accepts_writes(scope["path"]):
            return None
        if scope["method"] not in ("GET", "HEAD"):
            return PlainTextResponse("use GET or HEAD\n", 405, {"allow": "GET, HEAD"} | _CLOSE)
        headers = {name.lower(): value for name, value in scope["headers"]}
        if headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in headers:
            return PlainTextResponse("send no request body\n", 413, _CLOSE)
        return None
