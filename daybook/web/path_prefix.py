"""Pages behind a path prefix: the path of the public URL, such as `https://example.org/daybook`.

`PathPrefix` is the only code that knows the prefix of a request. It removes the prefix from the
path, and adds it to the links of the response. So all other code writes paths as if Daybook had the
whole host, and the pages are the same at this machine's own names, where they have no prefix.

    GET /daybook/jobs ──► `PathPrefix` ──► GET /jobs
    <a href="/daybook/runs"> ◄── `PathPrefix` ◄── <a href="/runs">

The proxy keeps the prefix: if it removed `/jobs` from `/jobs/jobs`, the rest would be ambiguous.
With `root_path` of Starlette, each template and each redirect would have to add the prefix.

It changes the header `Location`, and the attributes of HTML in `_LINK`. A template escapes each
quote in a text, so no text looks like an attribute. Static files find their neighbours by relative
addresses. `BrowserLogin.cookie` sets the path of the cookie.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_LINK = re.compile(rb'(\s(?:href|src|action|formaction|hx-get|hx-post)="|\scontent="0;url=)/(?!/)')
"""The beginning of an attribute with a path of this server; `content` is that of a refresh."""


def is_for(public_url: str, host: str) -> bool:
    """Return whether a request with the header ``Host: <host>`` is for the public URL."""
    found = urlsplit(public_url)
    standard = ":443" if found.scheme == "https" else ":80"
    return host != "" and host.lower().removesuffix(standard) == found.netloc


class PathPrefix:
    """ASGI middleware that serves ``application`` below the path of ``public_url``, if it has one.

    Requests for other hosts have no prefix.
    """

    def __init__(self, application: ASGIApp, public_url: str) -> None:
        self._application, self._public_url = application, public_url
        self._prefix = urlsplit(public_url).path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not self._prefix or not self._is_public(scope):
            await self._application(scope, receive, send)
            return
        path = scope["path"].removeprefix(self._prefix)
        if path == scope["path"] or path[:1] not in ("", "/"):
            problem = f"the path does not begin with {self._prefix}; let the proxy keep it\n"
            await PlainTextResponse(problem, 404)(scope, receive, send)
            return
        raw = scope.get("raw_path", b"")
        scope = {**scope, "path": path or "/", "raw_path": raw.removeprefix(self._prefix.encode())}
        await self._application(scope, receive, _Links(self._prefix.encode(), send))

    def _is_public(self, scope: Scope) -> bool:
        hosts = [value for name, value in scope["headers"] if name.lower() == b"host"]
        return is_for(self._public_url, hosts[0].decode("latin-1") if hosts else "")


class _Links:
    """ASGI function that sends a response whose links begin with ``prefix``.

    It collects the body of a page, because a link may be in two of its messages.
    """

    def __init__(self, prefix: bytes, send: Send) -> None:
        self._prefix, self._send = prefix, send
        self._head: Message | None = None
        self._body = bytearray()

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = [(name, self._moved(name, value)) for name, value in message["headers"]]
            message = {**message, "headers": headers}
            if any(_is_page(*each) for each in headers):
                self._head = message
                return
        elif self._head is not None:
            self._body += message.get("body", b"")
            if message.get("more_body"):
                return
            body = _LINK.sub(rb"\g<1>" + self._prefix + b"/", bytes(self._body))
            headers = [each for each in self._head["headers"] if each[0] != b"content-length"]
            headers.append((b"content-length", str(len(body)).encode()))
            await self._send({**self._head, "headers": headers})
            message = {**message, "body": body}
        await self._send(message)

    def _moved(self, name: bytes, value: bytes) -> bytes:
        is_path = value.startswith(b"/") and not value.startswith(b"//")
        return self._prefix + value if name == b"location" and is_path else value


def _is_page(name: bytes, value: bytes) -> bool:
    return name == b"content-type" and value.startswith(b"text/html")
