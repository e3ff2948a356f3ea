"""Allowed `Host` and `Origin` names of our own HTTP servers.

A browser on this machine visits untrusted pages. CORS hides responses from such a page. But if the
page's owner points its host name to 127.0.0.1 (DNS rebinding), page and server have the same
origin. So the `Host` has to be one of our names. DNS cannot point an IP address elsewhere, so a
server that listens on several addresses accepts any IP address.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from ipaddress import ip_address
from typing import Any

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})

_HOST = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([a-zA-Z0-9._-]+))(?::[0-9]{1,5})?\Z")


def host_name(host: str) -> str:
    """Return the name or address in a `Host` header, in lower case; "" if the header is invalid.

    Only a port may follow: parsers of URLs read the names of `127.0.0.1:80.evil.example` and
    `127.0.0.1/evil` differently.
    """
    match = _HOST.match(host)
    return (match[1] or match[2]).lower().removesuffix(".") if match else ""


def origin_name(origin: str) -> str:
    """Return the name or address in an `Origin` header; "" if it is not an origin of a website."""
    scheme, separator, host = origin.partition("://")
    return host_name(host) if separator and scheme.lower() in ("http", "https") else ""


class AllowedNames:
    """The allowed names: the names ``given``, and the loopback names of this machine.

    With ``any_address``, every IP address is also allowed.
    """

    def __init__(self, given: Iterable[str] = (), *, any_address: bool = False) -> None:
        self._any_address = any_address
        self._names = LOOPBACK_NAMES | {name.lower().removesuffix(".") for name in given if name}

    def refusal(self, scope: Any) -> str:
        """Return the reason to refuse a request of this ASGI scope; "" if it is allowed."""
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        if not self._is_allowed(host_name(headers.get(b"host", ""))):
            return "not a name of this server"
        if b"origin" in headers and not self._is_allowed(origin_name(headers[b"origin"])):
            return "not from this origin"
        return ""

    def _is_allowed(self, host: str) -> bool:
        if host in self._names:
            return True
        return self._any_address and _is_address(host)


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]


class SameOriginGuard:
    """ASGI middleware that forwards only requests whose `Host` is the host of one of ``origins``.

    If a request has an `Origin`, this header also has to be one of ``origins``. An origin has the
    form `http://127.0.0.1:4200`; `*` turns the guard off.
    """

    def __init__(self, application: Application, origins: Iterable[str]) -> None:
        self.application = application
        self.origins = {origin.strip().rstrip("/").lower() for origin in origins}
        self.hosts = set(filter(None, map(origin_name, self.origins)))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or self._is_allowed(scope):
            await self.application(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            # This happens before the websocket is accepted, so the client gets HTTP 403.
            await send({"type": "websocket.close", "code": 1008})
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
        return host_name(headers.get(b"host", "")) in self.hosts
