"""Origin guard of the Prefect server that we start: refuses requests of foreign web pages.

The server listens on this machine only, but a browser on this machine visits untrusted pages. CORS
hides answers from such a page and does not stop the request; it does not cover websockets at all;
and a name that its owner points to 127.0.0.1 counts as the same origin. So a request with a foreign
`Origin`, or for a foreign `Host`, is answered 403 before Prefect sees it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]


class SameOriginGuard:
    """ASGI middleware: forwards requests from ``origins``, and those that no web page sends.

    ``origins`` are such as `http://127.0.0.1:4200`; `*` turns the guard off.
    """

    def __init__(self, application: Application, origins: Iterable[str]) -> None:
        self.application = application
        self.origins = {origin.strip().rstrip("/").lower() for origin in origins}
        self.hosts = {urlsplit(origin).hostname for origin in self.origins}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or self._is_allowed(scope):
            await self.application(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})  # before accept: HTTP 403
        else:
            head = [(b"content-type", b"text/plain"), (b"connection", b"close")]
            await send({"type": "http.response.start", "status": 403, "headers": head})
            await send({"type": "http.response.body", "body": b"not from this origin\n"})

    def _is_allowed(self, scope: Scope) -> bool:
        if "*" in self.origins:
            return True
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        origin = headers.get(b"origin")
        if origin is not None and origin.lower() not in self.origins:
            return False
        host = urlsplit("//" + headers.get(b"host", "")).hostname
        return host in self.hosts
