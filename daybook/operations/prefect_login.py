"""Login of browsers to the Prefect server that `up` starts. The cookie counts as the credential.

::

    /api/…       with the cookie             ─► Prefect, with the credential
    /ui-settings with the cookie             ─► Prefect's settings, without the password prompt
    either one   without the cookie          ─► Prefect; its API requires the credential
    API documentation                        ─► 404: its pages run scripts of other servers
    a page       without the cookie          ─► a page with instructions to log in
    anything else                            ─► Prefect's pages and files, with `_POLICY`
    a websocket  with the cookie             ─► Prefect, with the credential; otherwise unchanged
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from daybook.operations import peers
from daybook.operations.host_names import LOOPBACK_NAMES, Receive, Scope, Send, host_name
from daybook.operations.login import SAFE_METHODS, BrowserLogin, is_from_own_page

_POLICY = "connect-src 'self' {}".format(
    " ".join(
        f"{scheme}://{name}:*" for scheme in ("http", "ws") for name in ("127.0.0.1", "localhost")
    )
)
"""Policy for Prefect's pages, because their analytics use the Internet with any settings."""

_DOCUMENTATION = re.compile(r"(/api)?/(docs(/.*)?|redoc)|/openapi\.json")
"""Pages of FastAPI about Prefect's API, and its description where Prefect requires no credential.

The pages run scripts of other servers, and such a script could use the cookie.
"""
_UNAUTHORIZED = json.dumps(
    {
        "exception_message": "Unauthorized: this Prefect server of `daybook up` requires its "
        'credential; run eval "$(daybook env)" in this shell, or set PREFECT_API_AUTH_STRING'
    }
).encode()


class PrefectLogin(BrowserLogin):
    """ASGI middleware around Prefect's application, with the arguments of `BrowserLogin`."""

    site = "Prefect"
    command = "daybook open --prefect"
    has_password = True

    async def forward_websocket(
        self, scope: Scope, headers: Mapping[bytes, str], receive: Receive, send: Send
    ) -> None:
        if self.session(scope, headers) and is_from_own_page(headers, safe=False):
            receive = self._inject_credential(receive)
        await self.application(scope, receive, send)

    async def forward(
        self, scope: Scope, headers: Mapping[bytes, str], receive: Receive, send: Send
    ) -> None:
        path, session = scope["path"], self.session(scope, headers)
        trusted = session and is_from_own_page(headers, safe=scope["method"] in SAFE_METHODS)
        if _DOCUMENTATION.fullmatch(path):
            await _answer_404(send)
            return
        if path == "/api" or path.startswith("/api/"):
            send = _with_advice(send)
            if trusted:
                scope = _with_header(scope, b"authorization", self.basic)
                receive = _only_from_this_user(receive, scope)
        elif path.endswith("/ui-settings"):
            if trusted:
                scope = _with_header(scope, b"accept-encoding", b"identity")
                send = _without_password(send, headers.get(b"host", ""))
        elif not session and scope["method"] == "GET" and "text/html" in headers.get(b"accept", ""):
            await self.refuse(send)
            return
        else:
            send = _with_policy(send)
        await self.application(scope, receive, send)

    def _inject_credential(self, receive: Receive) -> Receive:
        """Wrap ``receive``, to put the credential into the message by which a page logs in."""
        first = True

        async def received() -> Any:
            nonlocal first
            message = await receive()
            if first and message["type"] == "websocket.receive":
                first = False
                message = _with_credential(message, self.credential)
            return message

        return received


def _with_header(scope: Scope, name: bytes, value: bytes) -> Scope:
    others = [each for each in scope["headers"] if each[0].lower() != name]
    return {**scope, "headers": [*others, (name, value)]}


def _only_from_this_user(receive: Receive, scope: Scope) -> Receive:
    """Wrap ``receive``. When the body is complete, end the request if another user sent it.

    While the body arrives, a client can close its connection, and another client can use its port.
    """

    async def received() -> Any:
        message = await receive()
        complete = message["type"] == "http.request" and not message.get("more_body")
        if complete and peers.is_another_user(scope):
            return {"type": "http.disconnect"}
        return message

    return received


def _with_credential(message: Any, credential: str) -> Any:
    try:
        content = json.loads(message.get("text") or message.get("bytes") or "")
    except ValueError:
        return message
    if not isinstance(content, dict) or content.get("type") != "auth":
        return message
    return {"type": message["type"], "text": json.dumps({**content, "token": credential})}


def _with_advice(send: Send) -> Send:
    """Wrap ``send`` so that a refused program prints what to do, also in a traceback of Prefect."""
    is_refused = False

    async def changed(message: Any) -> None:
        nonlocal is_refused
        if message["type"] == "http.response.start":
            is_refused = message["status"] == 401
            if is_refused:
                head = [each for each in message["headers"] if each[0].lower() != b"content-length"]
                length = (b"content-length", str(len(_UNAUTHORIZED)).encode())
                message = {**message, "headers": [*head, length]}
        elif is_refused:
            if message.get("more_body"):
                return
            message = {**message, "body": _UNAUTHORIZED}
        await send(message)

    return changed


async def _answer_404(send: Send) -> None:
    head = [(b"content-type", b"text/plain")]
    await send({"type": "http.response.start", "status": 404, "headers": head})
    await send({"type": "http.response.body", "body": b"not served by Daybook\n"})


def _with_policy(send: Send) -> Send:
    """Wrap ``send`` so that the page of the response may connect to this machine only."""

    async def changed(message: Any) -> None:
        if message["type"] == "http.response.start":
            policy = (b"content-security-policy", _POLICY.encode())
            message = {**message, "headers": [*message["headers"], policy]}
        await send(message)

    return changed


def _without_password(send: Send, host: str) -> Send:
    """Wrap ``send`` for Prefect's response about its UI, so that the UI asks for no password.

    If ``host`` is a name of this machine, the response also contains the address of the API with
    ``host``, because the cookie is valid only for that name.
    """
    start: dict[str, Any] = {}
    body = bytearray()

    async def changed(message: Any) -> None:
        if message["type"] == "http.response.start":
            start.update(message)
            return
        body.extend(message.get("body", b""))
        if message.get("more_body"):
            return
        text = _without_auth(bytes(body), host)
        head = [each for each in start["headers"] if each[0].lower() != b"content-length"]
        start["headers"] = [*head, (b"content-length", str(len(text)).encode())]
        await send(start)
        await send({"type": "http.response.body", "body": text})

    return changed


def _without_auth(body: bytes, host: str) -> bytes:
    try:
        settings = json.loads(body)
        api = urlsplit(settings["api_url"])
    except (ValueError, TypeError, KeyError):
        return body
    settings["auth"] = None
    if host_name(host) in LOOPBACK_NAMES:
        settings["api_url"] = api._replace(netloc=host).geturl()
    return json.dumps(settings).encode()
