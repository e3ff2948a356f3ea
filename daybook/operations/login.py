"""Browser login for the Prefect server that we start: a one-time link, then a session cookie.

The server requires the home's credential. A browser has none, and users should not have to type it:
a holder of the credential requests a link, and the browser that opens it gets a cookie, which
counts as the credential for requests of this server's own pages.

::

    POST /daybook/links, with the credential ─► {"token", "expires_in"}
    GET  /daybook/login?token=…              ─► cookie, then the UI; the token is used up
    POST /daybook/login, password=…          ─► the same for a user who types the credential
    /api/…       with the cookie             ─► Prefect, with the credential
    /ui-settings with the cookie             ─► Prefect's, changed not to ask for a password

Tokens are kept as hashes, in memory. A cookie is signed and not stored, so it outlives a restart;
it becomes invalid when it expires, or when the server restarts after the credential was changed or
the file `browser-key` was deleted.

A browser sends a cookie to each port of this machine, also with requests of other pages. So the
cookie counts only if the browser says that a page of this very server sent the request (`Origin`,
`Sec-Fetch-Site`); a request that changes nothing may lack both headers.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

from daybook.operations.host_names import LOOPBACK_NAMES, Application, Receive, Scope, Send
from daybook.operations.peers import is_another_user

LINKS_PATH = "/daybook/links"
LOGIN_PATH = "/daybook/login"
LINK_LIFETIME_SECONDS = 10 * 60
SESSION_LIFETIME_SECONDS = 7 * 24 * 60 * 60
MAX_LINKS = 32
MAX_PASSWORD_BYTES = 4096
"""Maximum size of the body of a request with a typed password."""

_POLICY = "connect-src 'self' {}".format(
    " ".join(
        f"{scheme}://{name}:*" for scheme in ("http", "ws") for name in ("127.0.0.1", "localhost")
    )
)
"""Policy for Prefect's pages, whose analytics send requests to the Internet despite all settings.
"""

_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")


class BrowserLogin:
    """ASGI middleware around Prefect's application; ``port`` distinguishes cookies of two homes.

    ``clock`` returns seconds since the epoch.
    """

    def __init__(
        self,
        application: Application,
        credential: str,
        key: str,
        port: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._application, self._credential, self._clock = application, credential, clock
        self._key = hashlib.sha256(f"{key}\n{credential}".encode()).digest()
        self._cookie = f"daybook-session-{port}"
        self._basic = b"Basic " + base64.b64encode(credential.encode())
        self._links: dict[bytes, float] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._application(scope, receive, send)
            return
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        if scope["type"] == "websocket":
            if self._has_session(scope, headers) and _from_own_page(headers, safe=False):
                receive = self._inject_credential(receive)
            await self._application(scope, receive, send)
        elif scope["path"] == LINKS_PATH:
            await self._new_link(scope, headers, send)
        elif scope["path"] == LOGIN_PATH:
            await self._login(scope, headers, receive, send)
        else:
            await self._forward(scope, headers, receive, send)

    async def _forward(
        self, scope: Scope, headers: Mapping[bytes, str], receive: Receive, send: Send
    ) -> None:
        path, session = scope["path"], self._has_session(scope, headers)
        trusted = session and _from_own_page(headers, safe=scope["method"] in _SAFE_METHODS)
        if path == "/api" or path.startswith("/api/"):
            if trusted:
                scope = _with_header(scope, b"authorization", self._basic)
                receive = _only_from_this_user(receive, scope)
        elif path.endswith("/ui-settings"):
            if trusted:
                scope = _with_header(scope, b"accept-encoding", b"identity")
                send = _without_password(send, headers.get(b"host", ""))
        elif not session and scope["method"] == "GET" and "text/html" in headers.get(b"accept", ""):
            await _page(send, 401, "This browser is not logged in.")
            return
        else:
            send = _with_policy(send)
        await self._application(scope, receive, send)

    # Links.

    async def _new_link(self, scope: Scope, headers: Mapping[bytes, str], send: Send) -> None:
        authorization = headers.get(b"authorization", "").encode()
        if not hmac.compare_digest(authorization, self._basic):
            await _answer(send, 401, {"error": "the credential of this server is required"})
        elif scope["method"] != "POST":
            await _answer(send, 405, {"error": "use POST"})
        else:
            token, now = secrets.token_urlsafe(32), self._clock()
            valid = [each for each in self._links.items() if now < each[1]]
            self._links = dict(valid[1 - MAX_LINKS :])
            self._links[_hash(token)] = now + LINK_LIFETIME_SECONDS
            await _answer(send, 201, {"token": token, "expires_in": LINK_LIFETIME_SECONDS})

    async def _login(
        self, scope: Scope, headers: Mapping[bytes, str], receive: Receive, send: Send
    ) -> None:
        if scope["method"] == "GET":
            token = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
            # The link may be an argument of a browser's process, and all users can read arguments.
            if is_another_user(scope):
                await _page(send, 403, "This link was created for another user of this machine.")
                return
            if not self._use_up(token):
                await _page(send, 403, "This link has been used, or has expired.")
                return
        elif scope["method"] == "POST" and _from_own_page(headers, safe=False):
            typed = parse_qs((await _body(receive)).decode("latin-1")).get("password", [""])[0]
            if not hmac.compare_digest(typed.encode(), self._credential.encode()):
                await _page(send, 403, "Wrong password.")
                return
        else:
            await _page(send, 403, "Use this page to log in.")
            return
        content = f"{int(self._clock()) + SESSION_LIFETIME_SECONDS}.{secrets.token_hex(8)}"
        session = f"{content}.{self._signature(content)}"
        cookie = f"{self._cookie}={session}; HttpOnly; SameSite=Strict; Path=/"
        head = ((b"set-cookie", f"{cookie}; Max-Age={SESSION_LIFETIME_SECONDS}".encode()),)
        await _html(send, 200, _LOGGED_IN_PAGE, head)

    def _use_up(self, token: str) -> bool:
        """Return whether ``token`` belongs to a valid link, and invalidate it."""
        hashed, now = _hash(token), self._clock()
        for known, until in list(self._links.items()):
            if hmac.compare_digest(known, hashed):
                del self._links[known]
                return now < until
        return False

    # Sessions.

    def _has_session(self, scope: Scope, headers: Mapping[bytes, str]) -> bool:
        """Return whether a logged-in browser sent the request, not another user who has its cookie.

        A browser sends the cookie to each port of this machine, so also to servers of other users.
        """
        # `SimpleCookie` is not used: a single cookie of another port that it cannot parse hides all
        # others.
        cookies = (each.strip().partition("=") for each in headers.get(b"cookie", "").split(";"))
        value = next((value for name, _, value in cookies if name == self._cookie), "")
        content, _, signature = value.rpartition(".")
        if not hmac.compare_digest(signature.encode(), self._signature(content).encode()):
            return False
        return self._clock() < int(content.partition(".")[0]) and not is_another_user(scope)

    def _signature(self, content: str) -> str:
        return hmac.new(self._key, content.encode(), hashlib.sha256).hexdigest()

    def _inject_credential(self, receive: Receive) -> Receive:
        """Wrap ``receive``: put the credential into the message with which a page logs in."""
        first = True

        async def received() -> Any:
            nonlocal first
            message = await receive()
            if first and message["type"] == "websocket.receive":
                first = False
                message = _with_credential(message, self._credential)
            return message

        return received


def _from_own_page(headers: Mapping[bytes, str], *, safe: bool) -> bool:
    """Return whether a page of this very server sent the request.

    If the method is ``safe``, the request may lack both `Origin` and `Sec-Fetch-Site`.
    """
    site = headers.get(b"sec-fetch-site")
    if site is not None and site not in ("same-origin", "none"):
        return False
    origin = headers.get(b"origin")
    if origin is not None:
        try:
            netloc = urlsplit(origin).netloc.lower()
        except ValueError:
            return False
        return netloc == headers.get(b"host", "").lower() != ""
    return safe or site == "same-origin"


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _with_header(scope: Scope, name: bytes, value: bytes) -> Scope:
    others = [each for each in scope["headers"] if each[0].lower() != name]
    return {**scope, "headers": [*others, (name, value)]}


def _only_from_this_user(receive: Receive, scope: Scope) -> Receive:
    """Wrap ``receive``: end a request whose connection is another user's when its body is complete.

    While the body arrives, a client can close its connection, and another one can take its port.
    """

    async def received() -> Any:
        message = await receive()
        complete = message["type"] == "http.request" and not message.get("more_body")
        if complete and is_another_user(scope):
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

    The response also names the API by ``host`` if that is this machine: the cookie is valid only
    for that name.
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
    if urlsplit(f"//{host}").hostname in LOOPBACK_NAMES:
        settings["api_url"] = api._replace(netloc=host).geturl()
    return json.dumps(settings).encode()


async def _body(receive: Receive) -> bytes:
    """Return the body if it has at most `MAX_PASSWORD_BYTES`; else an empty one."""
    body = bytearray()
    while len(body) <= MAX_PASSWORD_BYTES:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    return bytes(body) if len(body) <= MAX_PASSWORD_BYTES else b""


_PRIVATE = (
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"same-origin"),
    (b"x-frame-options", b"DENY"),
    (b"content-security-policy", b"default-src 'none'; style-src 'unsafe-inline'"),
)

# Not a redirect: a browser that comes from another site would not send a strict cookie with it.
_LOGGED_IN_PAGE = """\
<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Daybook: logged in</title>
<meta http-equiv="refresh" content="0;url=/"></head>
<body><p>Logged in. <a href="/">Open Prefect's UI</a></p></body></html>
"""

_PAGE = """\
<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Daybook: log in</title>
<style>body{{font:16px/1.5 system-ui,sans-serif;max-width:34em;margin:4em auto;padding:0 1em}}
code{{background:#eee;padding:.1em .3em}}</style></head><body>
<h1>Daybook: log in to Prefect</h1>
<p><strong>{problem}</strong></p>
<p>Run <code>daybook open</code> in a terminal on this machine: it opens the UI, logged in.</p>
<form method="post" action="{login}">
<p>Or enter what <code>daybook env</code> shows as <code>PREFECT_API_AUTH_STRING</code>:<br>
<input type="password" name="password" autocomplete="off" aria-label="PREFECT_API_AUTH_STRING">
<button>Log in</button></p></form></body></html>
"""


async def _page(send: Send, status: int, problem: str) -> None:
    await _html(send, status, _PAGE.format(problem=problem, login=LOGIN_PATH))


async def _html(
    send: Send, status: int, text: str, more: Iterable[tuple[bytes, bytes]] = ()
) -> None:
    head = [(b"content-type", b"text/html; charset=utf-8"), *_PRIVATE, *more]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": text.encode()})


async def _answer(send: Send, status: int, content: Mapping[str, Any]) -> None:
    head = [(b"content-type", b"application/json"), *_PRIVATE]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": json.dumps(content).encode()})
