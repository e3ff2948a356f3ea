"""Browser login for the servers of this home, `daybook.web` and `up`'s Prefect: link, then cookie.

The servers require the home's credential. A browser does not have the credential, and users should
not have to type it. So a program with the credential requests a link, and the browser that opens
the link gets a cookie. The cookie counts for requests of this server's own pages.

::

    POST /daybook/links, with the credential ─► {"token", "expires_in"}
    GET  /daybook/login?token=…              ─► cookie, then the pages; the token is used up
    POST /daybook/login, password=…          ─► the same for a user who types the credential
    any other path                           ─► `forward`, which checks `session`
    a websocket                              ─► `forward_websocket`, which refuses by default

`BrowserLogin` is the base class for both servers. `prefect_login.PrefectLogin` is the subclass for
Prefect, and `daybook.web.login.PageLogin` is the subclass for Daybook's own pages.

The server stores only hashes of tokens, in memory. A cookie is signed and not stored, so it
outlives a restart. It becomes invalid when it expires. It also becomes invalid if the server
restarts after the credential was changed or the file `browser-key` was deleted. A cookie is valid
for one server, because the port is part of the signature. A subclass may have a public URL, from
which a proxy forwards requests (`is_public`). Links and cookies for the public URL are not valid at
this machine's own names, and those for these names are not valid at the public URL.

A browser sends a cookie to each port of this machine, even with requests of other pages. So the
cookie counts only if the browser states that a page of this very server sent the request (`Origin`,
`Sec-Fetch-Site`). Both headers may be missing only in a request that changes nothing.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from html import escape
from typing import Any, ClassVar
from urllib.parse import parse_qs

from daybook.api import web_address
from daybook.errors import DaybookError
from daybook.operations import peers
from daybook.operations.host_names import Application, Receive, Scope, Send, origin_name

LINKS_PATH = "/daybook/links"
LOGIN_PATH = web_address.LOGIN_PATH
LINK_LIFETIME_SECONDS = 10 * 60
SESSION_LIFETIME_SECONDS = 7 * 24 * 60 * 60
DEVICE_LIFETIME_SECONDS = 30 * 24 * 60 * 60
"""Lifetime of a stored session (`BrowserLogin.remember`) since its last use."""
VIEWER_LIFETIME_SECONDS = 365 * 24 * 60 * 60
"""Lifetime of the cookie of a shared link.

The cookie is valid only while the link's token exists.
"""
MAX_LINKS = 32
MAX_PASSWORD_BYTES = 4096
"""Maximum size of the body of a request with a typed password."""

LOCAL, PUBLIC = "local", "public"
"""Place where a cookie is valid: this machine's own names, or the public URL."""

_NOT_LOGGED_IN = "This browser is not logged in."
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")


@dataclass(frozen=True)
class LoginSession:
    """The session of a logged-in browser.

    ``content`` is the cookie without its expiry: the session's id, its place and its ``viewer``, so
    it stays the same if the cookie is renewed. ``viewer`` is the id of a shared link's token, which
    permits only reading; it is empty for the operator. ``csrf`` is the token by which a form proves
    that a page of this session contains the form.
    """

    content: str
    expires_at: int
    viewer: str = ""
    csrf: str = field(default="", repr=False)

    @property
    def id(self) -> str:
        return self.content.partition(".")[0]


class BrowserLogin(ABC):
    """ASGI middleware by which browsers log in to ``application``.

    ``port`` distinguishes the cookies of two servers. ``clock`` returns seconds since the epoch. A
    subclass answers requests for all paths except the login paths (`forward`), and decides which of
    them need a session. It sets the name of the ``site``, and the ``command`` that opens the site.
    With ``has_password``, a user may type the credential.
    """

    site: ClassVar[str] = "Daybook"
    command: ClassVar[str] = "daybook open"
    has_password: ClassVar[bool] = False

    def __init__(
        self,
        application: Application,
        credential: str,
        key: str,
        port: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.application, self.credential, self._clock = application, credential, clock
        self._key = hashlib.sha256(f"{key}\n{credential}\n{port}".encode()).digest()
        self._cookie = f"daybook-session-{port}"
        self.basic = b"Basic " + base64.b64encode(credential.encode())
        self._links: dict[bytes, tuple[float, bool]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.application(scope, receive, send)
            return
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        if scope["type"] == "websocket":
            await self.forward_websocket(scope, headers, receive, send)
        elif scope["path"] == LINKS_PATH:
            await self._send_link(scope, headers, send)
        elif scope["path"] == LOGIN_PATH:
            await self._login(scope, headers, receive, send)
        else:
            await self.forward(scope, headers, receive, send)

    @abstractmethod
    async def forward(
        self, scope: Scope, headers: Mapping[bytes, str], receive: Receive, send: Send
    ) -> None:
        """Answer a request for a path that does not belong to the login."""

    def is_public(self, headers: Mapping[bytes, str]) -> bool:
        """Return whether a request is for the public URL. By default, there is no public URL."""
        return False

    @property
    def is_secure(self) -> bool:
        """Return whether the public URL has TLS, so that browsers send its cookie only over TLS."""
        return False

    @property
    def public_path(self) -> str:
        """Return the path of the public URL, below which browsers send its cookie."""
        return "/"

    async def viewer_of(self, token: str) -> str:
        """Return the id of ``token`` if it belongs to a shared link (by default, never), else "".

        Raise `DaybookError` if the token cannot be checked.
        """
        return ""

    async def landing(self) -> str:
        """Return the path of the page that a browser opens after the login."""
        return "/"

    async def forward_websocket(
        self, scope: Scope, headers: Mapping[bytes, str], receive: Receive, send: Send
    ) -> None:
        """Answer a websocket. By default, refuse it."""
        await receive()
        await send({"type": "websocket.close", "code": 1008})

    async def refuse(self, send: Send, status: int = 401, problem: str = _NOT_LOGGED_IN) -> None:
        """Send a page with instructions to log in."""
        form = _PASSWORD_FORM.format(login=LOGIN_PATH) if self.has_password else ""
        text = _PAGE.format(
            style=_STYLE, site=self.site, problem=escape(problem), command=self.command, form=form
        )
        await _html(send, status, text)

    # Links.

    async def _send_link(self, scope: Scope, headers: Mapping[bytes, str], send: Send) -> None:
        authorization = headers.get(b"authorization", "").encode()
        if not hmac.compare_digest(authorization, self.basic):
            await _answer(send, 401, {"error": "the credential of this server is required"})
        elif scope["method"] != "POST":
            await _answer(send, 405, {"error": "use POST"})
        else:
            is_public = scope["query_string"] == PUBLIC.encode()
            token = self._new_token(is_public=is_public)
            await _answer(send, 201, {"token": token, "expires_in": LINK_LIFETIME_SECONDS})

    def new_link(self, *, is_public: bool = False) -> str:
        """Return the path of a link by which a browser can log in once."""
        return f"{LOGIN_PATH}?token={self._new_token(is_public=is_public)}"

    def _new_token(self, *, is_public: bool) -> str:
        token, now = secrets.token_urlsafe(32), self._clock()
        valid = [each for each in self._links.items() if now < each[1][0]]
        self._links = dict(valid[1 - MAX_LINKS :])
        self._links[_hash(token)] = now + LINK_LIFETIME_SECONDS, is_public
        return token

    async def _login(
        self, scope: Scope, headers: Mapping[bytes, str], receive: Receive, send: Send
    ) -> None:
        is_public, viewer = self.is_public(headers), ""
        if scope["method"] == "GET":
            token = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
            # Check the user, because the link may be an argument of a browser's process, and all
            # users can read arguments. A link to the public URL is never an argument, and its
            # requests come from the proxy's user.
            if not is_public and peers.is_another_user(scope):
                await self.refuse(
                    send, 403, "This link was created for another user of this machine."
                )
                return
            if not self._use_up(token, is_public=is_public):
                try:
                    viewer = await self.viewer_of(token)
                except DaybookError as error:
                    await self.refuse(send, 503, str(error))
                    return
                if not viewer:
                    await self.refuse(send, 403, "This link has been used, or has expired.")
                    return
        elif (
            self.has_password
            and scope["method"] == "POST"
            and is_from_own_page(headers, safe=False)
        ):
            typed = parse_qs((await _body(receive)).decode("latin-1")).get("password", [""])[0]
            if not hmac.compare_digest(typed.encode(), self.credential.encode()):
                await self.refuse(send, 403, "Wrong password.")
                return
        else:
            await self.refuse(send, 403, "Use this page to log in.")
            return
        content = f"{secrets.token_hex(8)}.{PUBLIC if is_public else LOCAL}.{viewer}"
        try:
            session = await self.remember(LoginSession(content, 0, viewer), headers)
        except DaybookError as error:
            await self.refuse(send, 503, str(error))
            return
        cookie = self.session_cookie(headers, session)
        url = escape("/" if viewer else await self.landing())
        await _html(send, 200, _LOGGED_IN_PAGE.format(site=self.site, url=url), [cookie])

    async def remember(self, session: LoginSession, headers: Mapping[bytes, str]) -> LoginSession:
        """Return the session of a browser that logs in, with its expiry. A subclass may store it.

        Raise `DaybookError` if it cannot be stored.
        """
        lifetime = VIEWER_LIFETIME_SECONDS if session.viewer else SESSION_LIFETIME_SECONDS
        return replace(session, expires_at=int(self._clock()) + lifetime)

    def session_cookie(
        self, headers: Mapping[bytes, str], session: LoginSession
    ) -> tuple[bytes, bytes]:
        """Return the header with the signed cookie of a session."""
        signed = f"{session.expires_at}.{session.content}"
        value = f"{signed}.{self._signature(signed)}"
        return self.cookie(headers, value, session.expires_at - int(self._clock()))

    def cookie(
        self, headers: Mapping[bytes, str], value: str, lifetime: int
    ) -> tuple[bytes, bytes]:
        """Return the header that sets the cookie for the host of the request."""
        is_public = self.is_public(headers)
        path = self.public_path if is_public else "/"
        secure = "; Secure" if is_public and self.is_secure else ""
        attributes = f"HttpOnly; SameSite=Strict; Path={path}{secure}; Max-Age={lifetime}"
        return b"set-cookie", f"{self._cookie_name(headers)}={value}; {attributes}".encode()

    def _cookie_name(self, headers: Mapping[bytes, str]) -> str:
        if not (self.is_public(headers) and self.is_secure):
            return self._cookie
        # A browser accepts a cookie with one of these prefixes only from a server with TLS; with
        # the first, only for a whole host.
        return ("__Host-" if self.public_path == "/" else "__Secure-") + self._cookie

    def _use_up(self, token: str, *, is_public: bool) -> bool:
        """Make the link with ``token`` invalid for this place. Return whether it was valid."""
        hashed, now = _hash(token), self._clock()
        for known, (until, for_public) in list(self._links.items()):
            if hmac.compare_digest(known, hashed) and for_public == is_public:
                del self._links[known]
                return now < until
        return False

    # Sessions.

    def session(self, scope: Scope, headers: Mapping[bytes, str]) -> LoginSession | None:
        """Return the session of the browser that sent the request.

        Return None if it is not logged in. A browser sends the cookie to each port of this machine,
        even to servers of other users. So a cookie that another user sends does not count. At the
        public URL, all requests come from the proxy's user, so the cookies of this machine's own
        names are not valid there.
        """
        # If `SimpleCookie` cannot parse one cookie of another port, it finds no cookie at all.
        cookies = (each.strip().partition("=") for each in headers.get(b"cookie", "").split(";"))
        name_sought, is_public = self._cookie_name(headers), self.is_public(headers)
        value = next((value for name, _, value in cookies if name == name_sought), "")
        content, _, signature = value.rpartition(".")
        if not hmac.compare_digest(signature.encode(), self._signature(content).encode()):
            return None
        parts = content.split(".")
        if len(parts) != 4 or parts[2] != (PUBLIC if is_public else LOCAL):
            return None
        lasting = ".".join(parts[1:])
        csrf = self._signature(f"csrf {lasting}")
        found = LoginSession(lasting, int(parts[0]), viewer=parts[3], csrf=csrf)
        if not self.is_current(found) or (not is_public and peers.is_another_user(scope)):
            return None
        return found

    def is_current(self, session: LoginSession) -> bool:
        """Return whether ``session`` has not expired. Do not check the token of its link."""
        return self._clock() < session.expires_at

    def _signature(self, content: str) -> str:
        return hmac.new(self._key, content.encode(), hashlib.sha256).hexdigest()


def is_from_own_page(headers: Mapping[bytes, str], *, safe: bool) -> bool:
    """Return whether a page of this very server sent the request.

    If the method is ``safe``, both `Origin` and `Sec-Fetch-Site` may be missing.
    """
    site = headers.get(b"sec-fetch-site")
    if site is not None and site not in ("same-origin", "none"):
        return False
    origin = headers.get(b"origin")
    if origin is not None:
        host = origin.lower().partition("://")[2]
        return origin_name(origin) != "" and host == headers.get(b"host", "").lower()
    return safe or site == "same-origin"


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


async def _body(receive: Receive) -> bytes:
    """Return the body. If it has more than `MAX_PASSWORD_BYTES`, return an empty body."""
    body = bytearray()
    while len(body) <= MAX_PASSWORD_BYTES:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    return bytes(body) if len(body) <= MAX_PASSWORD_BYTES else b""


_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:34em;margin:4em auto;padding:0 1em}
code{background:#8882;padding:.1em .3em}
:root{color-scheme:light dark}
"""
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_PRIVATE = (
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"same-origin"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (
        b"content-security-policy",
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'".encode(),
    ),
)

# Send a page, because a browser from another site would send no strict cookie with a redirect.
_LOGGED_IN_PAGE = """\
<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Daybook: logged in</title>
<meta http-equiv="refresh" content="0;url={url}"></head>
<body><p>Logged in. <a href="{url}">Open {site}</a></p></body></html>
"""

_PAGE = """\
<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Daybook: log in</title>
<meta name="viewport" content="width=device-width"><style>{style}</style></head><body>
<h1>Log in to {site}</h1>
<p><strong>{problem}</strong></p>
<p>Run <code>{command}</code> in a terminal on this machine: it opens {site}, logged in.</p>
{form}</body></html>
"""

_PASSWORD_FORM = """\
<form method="post" action="{login}">
<p>Or enter what <code>daybook env</code> shows as <code>PREFECT_API_AUTH_STRING</code>:<br>
<input type="password" name="password" autocomplete="off" aria-label="PREFECT_API_AUTH_STRING">
<button>Log in</button></p></form>
"""


async def send_page(
    send: Send, status: int, text: str, headers: Iterable[tuple[bytes, bytes]] = ()
) -> None:
    """Send an HTML page with headers that forbid caching and scripts."""
    await _html(send, status, text, headers)


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
