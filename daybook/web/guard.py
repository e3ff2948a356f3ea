"""Guard for incoming requests: GET and HEAD without a body, for a host name of this server.

Every client that reaches the port may read the pages. A browser that visits a foreign web page
must not be such a client, so requests with a foreign host name or origin are refused
(`daybook.operations.host_names`).
"""

from __future__ import annotations

from collections.abc import Iterable

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from daybook.operations.host_names import AllowedNames

_CLOSE = {"connection": "close"}


class Guard:
    """ASGI middleware; `AllowedNames` documents ``names`` and ``any_address``."""

    def __init__(
        self, application: ASGIApp, names: Iterable[str] = (), *, any_address: bool = False
    ) -> None:
        self._application = application
        self._names = AllowedNames(names, any_address=any_address)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (response := self._refusal(scope)) is not None:
            await response(scope, receive, send)
        elif scope["type"] != "websocket":
            await self._application(scope, receive, send)

    def _refusal(self, scope: Scope) -> PlainTextResponse | None:
        if why := self._names.refusal(scope):
            return PlainTextResponse(f"{why}\n", 403, _CLOSE)
        if scope["method"] not in ("GET", "HEAD"):
            return PlainTextResponse("GET or HEAD\n", 405, {"allow": "GET, HEAD"} | _CLOSE)
        headers = {name.lower(): value for name, value in scope["headers"]}
        if headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in headers:
            return PlainTextResponse("no body is read here\n", 413, _CLOSE)
        return None
