"""Login and guard of Daybook's pages. Without a session, no page is shown or changed.

::

    a login                               ─► `BrowserLogin`
    static files                          ─► the file: it is the same in every installation
    a page below `SIGNED_PATH`            ─► the page: its address is the proof, which it checks
    a page, with a session                ─► the page; 401 if the token of its link was removed,
                                             503 if the ledger cannot be read
    a page, from a link of another site   ─► a page that loads the address again with the cookie
    a page, without a session             ─► instructions to log in (401)
    a write, from a page of this server,
      with a session and its CSRF token   ─► the write; 403 for the session of a shared link,
                                             413 if it is larger than `MAX_FORM_BYTES`
    a write below `SIGNED_PATH`, the same
      without a session                   ─► the write; the CSRF token belongs to the address
    everything else                       ─► 403

A request belongs to the public URL (`DAYBOOK_PUBLIC_URL`) if its `Host` is the host of that URL. If
such a request has an `Origin`, it has to be exactly that of the public URL. The server refuses a
request that a proxy forwarded to another host name, because the cookie of that name is not bound to
TLS.

For each page, the server reads the token of a shared link, or the device of the operator, from the
ledger, so its removal takes effect at once. `daybook.web.live` ends the streams of sessions whose
token or device was removed, and of sessions that have logged out or expired. The cookie of a device
is renewed when it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any, Protocol
from urllib.parse import parse_qs, quote, urlsplit

from starlette.requests import Request

from daybook import home as homes
from daybook import settings
from daybook.errors import DaybookError, InvalidInput
from daybook.operations.host_names import Application, Receive, Scope, Send
from daybook.operations.login import (
    DEVICE_LIFETIME_SECONDS,
    LINKS_PATH,
    LOGIN_PATH,
    SAFE_METHODS,
    BrowserLogin,
    LoginSession,
    is_from_own_page,
    send_page,
)
from daybook.web import path_prefix

ENDPOINTS = ("/health", "/metrics")
STATIC_PATH = "/static/"
LOGOUT_PATH = "/daybook/logout"
SIGNED_PATH = "/decide/"
"""Path of pages that need no login, because any user of the signed address may use them.

The referrer policy of `HEADERS` keeps the address from other sites. With `no-referrer`, a browser
would send no origin with the page's form, and the origin would not be checked.
"""
CSRF_FIELD = "csrf"
"""Name of the form field with the token of `csrf_token`."""
CSRF_HEADER = "x-csrf-token"
MAX_FORM_BYTES = 2 * 1024 * 1024
"""Maximum size of a form.

A job may have half a million bytes, and a browser may send three characters for each byte.
"""
RENEWAL_SECONDS = 24 * 60 * 60
"""Age from which the cookie of a device is renewed when it is used."""
MAX_LOGGED_OUT = 1_000
"""Maximum number of logged-out sessions that a server stores, to refuse their cookies."""
_FORWARDED = frozenset(
    (b"forwarded", b"via", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto")
)
"""Headers that proxies add."""

_NOT_OWN = "This request did not come from a page of Daybook."
_NOT_FORWARDED = (
    "A proxy forwarded this request. Set DAYBOOK_PUBLIC_URL to the address that the browser shows, "
    "and let the proxy keep the Host header."
)
_ONLY_SHOWN = "This link shows the pages. It cannot change anything."

# Pages load only files of this server, and contain no inline script, style or frame.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; manifest-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"cache-control", b"no-store"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"referrer-policy", b"same-origin"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
)

# After a click on another site, such as a chat, a browser sends no strict cookie. After a click on
# this page, it does.
_CONTINUE_PAGE = """\
<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Daybook</title>
<meta http-equiv="refresh" content="0;url={url}"></head>
<body><p><a href="{url}">Continue to Daybook</a></p></body></html>
"""

_LOGGED_OUT_PAGE = """\
<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Daybook: logged out</title></head>
<body><p>Logged out. <code>daybook open</code> logs in again.</p></body></html>
"""


def accepts_writes(path: str) -> bool:
    """Return whether `PageLogin` checks the methods and bodies of requests for ``path``."""
    return path not in ENDPOINTS


class Devices(Protocol):
    """The stored sessions of the operator's browsers, by the ids of their cookies.

    Each function raises `DaybookError` if the ledger cannot be used.
    """

    async def add(self, device_id: str, place: str, user_agent: str) -> None:
        """Store a device that logs in now."""
        ...

    async def use(self, device_id: str) -> bool:
        """Return whether the device was not revoked and has not expired, and record its use."""
        ...

    async def remove(self, device_id: str) -> None:
        """Revoke a device."""
        ...


class Viewers(Protocol):
    """Shared links, devices (None if they are not stored), and the first page after a login."""

    @property
    def devices(self) -> Devices | None: ...

    async def viewer_of(self, token: str) -> str:
        """Return the id of a token; "" if it does not exist.

        Raise `DaybookError` if the ledger cannot be read.
        """
        ...

    async def is_viewer(self, token_id: str) -> bool:
        """Return whether the token still exists.

        Raise `DaybookError` if the ledger cannot be read.
        """
        ...

    async def landing(self) -> str:
        """Return the path of the first page after a login."""
        ...


def protect(application: Application, port: int, viewers: Viewers | None = None) -> PageLogin:
    """Return ``application``, wrapped in the login of this home's server on ``port``.

    Without ``viewers``, shared links are not valid.
    """
    home = homes.current_home().make()
    server = PageLogin(application, home.ensure_credential(), home.browser_key(), port)
    server.public_url, server.viewers = settings.load().public_url, viewers
    return server


class PageLogin(BrowserLogin):
    """ASGI middleware that protects Daybook's pages. It has the arguments of `BrowserLogin`."""

    public_url = ""
    viewers: Viewers | None = None

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self._logged_out: dict[str, None] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
            is_public = self.is_public(headers)
            if not is_public and not _FORWARDED.isdisjoint(headers):
                await self.refuse(send, 403, _NOT_FORWARDED)
                return
            if is_public and scope["path"] == LINKS_PATH:
                await self.refuse(send, 403, "Links are made on the machine itself.")
                return
        await super().__call__(scope, receive, send)

    @property
    def is_secure(self) -> bool:
        return self.public_url.startswith("https:")

    def is_public(self, headers: Mapping[bytes, str]) -> bool:
        return path_prefix.is_for(self.public_url, headers.get(b"host", ""))

    @property
    def public_path(self) -> str:
        return urlsplit(self.public_url).path or "/"

    async def viewer_of(self, token: str) -> str:
        return "" if self.viewers is None else await self.viewers.viewer_of(token)

    @property
    def _devices(self) -> Devices | None:
        return self.viewers.devices if self.viewers is not None else None

    async def remember(self, session: LoginSession, headers: Mapping[bytes, str]) -> LoginSession:
        devices = self._devices
        if session.viewer or devices is None:
            return await super().remember(session, headers)
        place = session.content.split(".")[1]
        await devices.add(session.id, place, headers.get(b"user-agent", ""))
        return self._renewed(session)

    def _renewed(self, session: LoginSession) -> LoginSession:
        return replace(session, expires_at=int(self._clock()) + DEVICE_LIFETIME_SECONDS)

    async def landing(self) -> str:
        return "/" if self.viewers is None else await self.viewers.landing()

    def is_current(self, session: LoginSession) -> bool:
        return super().is_current(session) and session.content not in self._logged_out

    def _is_from_own_page(self, headers: Mapping[bytes, str], *, safe: bool) -> bool:
        """Return whether a page of this server, under the same host name, sent the request."""
        if not is_from_own_page(headers, safe=safe):
            return False
        origin = headers.get(b"origin")
        if origin is None or not self.is_public(headers):
            return True
        return origin.lower() == self.public_url.removesuffix(urlsplit(self.public_url).path)

    async def _is_admitted(self, session: LoginSession, send: Send) -> bool:
        """Return True if the token of the session's link, or the session's device, exists.

        Otherwise send a page with the error, and return False.
        """
        devices = self._devices
        try:
            if session.viewer:
                if self.viewers is not None and await self.viewers.is_viewer(session.viewer):
                    return True
            elif devices is None or await devices.use(session.id):
                return True
        except DaybookError as error:
            await self.refuse(send, 503, str(error))
        else:
            ended = "link was revoked" if session.viewer else "browser was logged out"
            await self.refuse(send, 401, f"This {ended}.")
        return False

    async def forward(
        self, scope: Scope, headers: Mapping[bytes, str], receive: Receive, send: Send
    ) -> None:
        send = _with_defaults(send, is_static=scope["path"].startswith(STATIC_PATH))
        if scope["method"] in SAFE_METHODS:
            await self._show(scope, headers, receive, send)
            return
        session = self._session_of(scope, headers)
        if session is None or not self._is_from_own_page(headers, safe=False):
            await self.refuse(send, 403, _NOT_OWN)
        elif session.viewer:
            await self.refuse(send, 403, _ONLY_SHOWN)
        elif not self._is_signed(scope) and not await self._is_admitted(session, send):
            return
        elif headers.get(b"transfer-encoding") or not _is_short(headers):
            await self.refuse(send, 413, "The form is too large.")
        elif scope["path"] == LOGOUT_PATH:
            await self._log_out(session, headers, send)
        else:
            await self._forward(session, scope, receive, send)

    async def _show(
        self, scope: Scope, headers: Mapping[bytes, str], receive: Receive, send: Send
    ) -> None:
        if scope["path"].startswith(STATIC_PATH):
            await self.application(scope, receive, send)
            return
        if self._is_signed(scope):
            await self._forward(self._signed_session(scope), scope, receive, send)
            return
        session = self.session(scope, headers)
        if headers.get(b"sec-fetch-site") in ("cross-site", "same-site"):
            if headers.get(b"sec-fetch-mode") == "navigate":
                query = scope["query_string"].decode("latin-1")
                # Quote the path, because a browser reads a backslash as a slash and ignores a tab,
                # and because an address that starts with two slashes belongs to another site.
                url = quote("/" + scope["path"].lstrip("/")) + (f"?{query}" if query else "")
                await send_page(send, 200, _CONTINUE_PAGE.format(url=escape(url)))
            else:
                await self.refuse(send, 403, _NOT_OWN)
        elif session is None or not self._is_from_own_page(headers, safe=True):
            await self.refuse(send)
        elif await self._is_admitted(session, send):
            await self._forward(session, scope, receive, self._renewing(session, headers, send))

    def _renewing(self, session: LoginSession, headers: Mapping[bytes, str], send: Send) -> Send:
        """Return ``send``, wrapped to renew the cookie of a device that is older than a day."""
        renewed = self._renewed(session)
        is_new = renewed.expires_at - session.expires_at < RENEWAL_SECONDS
        if session.viewer or self._devices is None or is_new:
            return send
        return _with_headers(send, [self.session_cookie(headers, renewed)])

    @staticmethod
    def _is_signed(scope: Scope) -> bool:
        path: str = scope["path"]
        return path.startswith(SIGNED_PATH)

    def _session_of(self, scope: Scope, headers: Mapping[bytes, str]) -> LoginSession | None:
        return (
            self._signed_session(scope) if self._is_signed(scope) else self.session(scope, headers)
        )

    def _signed_session(self, scope: Scope) -> LoginSession:
        """Return the session of the bearer of a signed address. Its CSRF token is of the address.

        It is valid for this request only.
        """
        content = f"signed {scope['path']}"
        return LoginSession(content, 0, csrf=self._signature(f"csrf {content}"))

    async def _forward(
        self, session: LoginSession, scope: Scope, receive: Receive, send: Send
    ) -> None:
        is_stored = self._devices is not None
        scope["daybook"] = Admitted(session, lambda: self.is_current(session), is_stored)
        await self.application(scope, receive, send)

    async def _log_out(
        self, session: LoginSession, headers: Mapping[bytes, str], send: Send
    ) -> None:
        """End the session in this browser. Revoke its device; else refuse its cookie.

        Without a device, this server refuses the cookie until it ends, or until `MAX_LOGGED_OUT`
        later logouts.
        """
        if self._devices is not None:
            try:
                await self._devices.remove(session.id)
            except DaybookError as error:
                await self.refuse(send, 503, str(error))
                return
        self._logged_out[session.content] = None
        if len(self._logged_out) > MAX_LOGGED_OUT:
            del self._logged_out[next(iter(self._logged_out))]
        await send_page(send, 200, _LOGGED_OUT_PAGE, [self.cookie(headers, "", 0)])


@dataclass(frozen=True)
class Admitted:
    """The session of a request to the pages. ``is_current`` returns whether it has not expired.

    ``is_stored`` says whether the sessions of browsers are stored as devices.
    """

    session: LoginSession
    is_current: Callable[[], bool]
    is_stored: bool = False

    @property
    def revocable(self) -> str:
        """Return the id of the token or device without which the session ends; "" if none."""
        return self.session.viewer or (self.session.id if self.is_stored else "")


def admitted(request: Request) -> Admitted:
    """Return the session of a request to the pages."""
    found: Admitted = request.scope["daybook"]
    return found


def csrf_token(request: Request) -> str:
    """Return the token that a form of this session has to send back to change something."""
    return admitted(request).session.csrf


async def read_form(request: Request) -> dict[str, list[str]]:
    """Return the fields of a submitted form, without the token.

    Raise `InvalidInput` if the token is missing or belongs to another session.
    """
    import hmac

    body, content_type = await request.body(), request.headers.get("content-type", "")
    if content_type.startswith("multipart/form-data"):
        fields = _read_parts(content_type, body)
    else:
        fields = parse_qs(body.decode(errors="replace"), keep_blank_values=True)
    given = request.headers.get(CSRF_HEADER) or (fields.pop(CSRF_FIELD, None) or [""])[0]
    if not hmac.compare_digest(given.encode(), csrf_token(request).encode()):
        raise InvalidInput("form", "it is not of this session", "reload the page and try again")
    return fields


def _read_parts(content_type: str, body: bytes) -> dict[str, list[str]]:
    """Return the fields of a form with files.

    The name of the file in FIELD is in FIELD-name. FIELD-base64 is the file's content in base64 if
    it is no text, because it is not UTF-8 or has a NUL; otherwise, it is empty.
    """
    from base64 import b64encode
    from email import message_from_bytes, policy

    head = b"content-type: " + content_type.encode() + b"\r\n\r\n"
    fields: dict[str, list[str]] = {}
    for part in message_from_bytes(head + body, policy=policy.HTTP).iter_parts():
        name = str(part.get_param("name", "", header="content-disposition"))
        content = part.get_payload(decode=True)
        content = content if isinstance(content, bytes) else b""
        text = content.decode(errors="replace")
        fields.setdefault(name, []).append(text)
        if file := part.get_filename():
            is_text = text.encode() == content and "\0" not in text
            encoded = "" if is_text else b64encode(content).decode()
            fields.setdefault(f"{name}-name", []).append(file)
            fields.setdefault(f"{name}-base64", []).append(encoded)
    return fields


def _is_short(headers: Mapping[bytes, str]) -> bool:
    length = headers.get(b"content-length", "0")
    return length.isdecimal() and int(length) <= MAX_FORM_BYTES


def _with_headers(send: Send, headers: Sequence[tuple[bytes, bytes]]) -> Send:
    """Return ``send``, wrapped to add the ``headers``."""

    async def changed(message: Mapping[str, object]) -> None:
        if message["type"] == "http.response.start":
            given = list(message.get("headers") or [])  # type: ignore[call-overload]
            message = {**message, "headers": [*given, *headers]}
        await send(dict(message))

    return changed


def _with_defaults(send: Send, *, is_static: bool) -> Send:
    """Return ``send``, wrapped to add each of `HEADERS` that the response does not set itself.

    A static file gets no `cache-control`.
    """

    async def changed(message: Mapping[str, object]) -> None:
        if message["type"] == "http.response.start":
            given = list(message.get("headers") or [])  # type: ignore[call-overload]
            names = {name.lower() for name, _ in given}
            more = [each for each in HEADERS if each[0] not in names]
            if is_static:
                more = [each for each in more if each[0] != b"cache-control"]
            message = {**message, "headers": [*given, *more]}
        await send(dict(message))

    return changed


__all__ = ["LINKS_PATH", "LOGIN_PATH", "PageLogin", "csrf_token", "protect", "read_form"]
