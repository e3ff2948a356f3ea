"""Login and guard of Daybook's pages: nothing is shown, and nothing is done, without a session.

::

    static files                          ─► anybody: they are the same in every installation
    a page, with a session                ─► the page
    a page, from a link of another site   ─► a page that leads to it, which the cookie is sent to
    a page, without a session             ─► how to log in (401)
    a write, from a page of this server,
      with a session and its CSRF token   ─► the write
    everything else                       ─► 403
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from urllib.parse import parse_qs, quote

from starlette.requests import Request

from daybook import home as homes
from daybook.errors import InvalidInput
from daybook.operations.host_names import Application, Receive, Scope, Send
from daybook.operations.login import (
    LINKS_PATH,
    LOGIN_PATH,
    SAFE_METHODS,
    BrowserLogin,
    is_from_own_page,
    send_page,
)

ENDPOINTS = ("/health", "/metrics")
STATIC_PATH = "/static/"
CSRF_FIELD = "csrf"
"""Name of the form field with the token of `csrf_token`."""
CSRF_HEADER = "x-csrf-token"
MAX_FORM_BYTES = 2 * 1024 * 1024
"""A job may have half a million bytes, and a browser may send three characters for each."""

# Pages load only what this server serves, and no script, style or frame is inline.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"cache-control", b"no-store"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"referrer-policy", b"same-origin"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
)

# A strict cookie is not sent with a click on another site, such as a chat; from this page it is.
_CONTINUE_PAGE = """\
<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Daybook</title>
<meta http-equiv="refresh" content="0;url={url}"></head>
<body><p><a href="{url}">Continue to Daybook</a></p></body></html>
"""


def accepts_writes(path: str) -> bool:
    """Return whether `PageLogin` checks the methods and bodies of requests for ``path``."""
    return path not in ENDPOINTS


def protect(application: Application, port: int) -> PageLogin:
    """Return ``application`` behind the login of this home's server on ``port``."""
    home = homes.current_home().make()
    return PageLogin(application, home.ensure_credential(), home.browser_key(), port)


class PageLogin(BrowserLogin):
    """ASGI middleware around Daybook's pages; the arguments are those of `BrowserLogin`."""

    async def forward(
        self, scope: Scope, headers: Mapping[bytes, str], receive: Receive, send: Send
    ) -> None:
        send = _with_headers(send, is_static=scope["path"].startswith(STATIC_PATH))
        if scope["method"] in SAFE_METHODS:
            await self._show(scope, headers, receive, send)
            return
        session = self.session(scope, headers)
        if not session or not is_from_own_page(headers, safe=False):
            await self.refuse(send, 403, "This request did not come from a page of Daybook.")
        elif headers.get(b"transfer-encoding") or not _is_short(headers):
            await self.refuse(send, 413, "The form is too large.")
        else:
            scope["daybook"] = {"session": session, "csrf": self.csrf_token(session)}
            await self.application(scope, receive, send)

    async def _show(
        self, scope: Scope, headers: Mapping[bytes, str], receive: Receive, send: Send
    ) -> None:
        session = self.session(scope, headers)
        if scope["path"].startswith(STATIC_PATH):
            await self.application(scope, receive, send)
        elif headers.get(b"sec-fetch-site") in ("cross-site", "same-site"):
            if headers.get(b"sec-fetch-mode") == "navigate":
                query = scope["query_string"].decode("latin-1")
                # Quoted, because a browser reads a backslash as a slash and leaves a tab out, and
                # an address that begins with two slashes is of another site.
                url = quote("/" + scope["path"].lstrip("/")) + (f"?{query}" if query else "")
                await send_page(send, 200, _CONTINUE_PAGE.format(url=escape(url)))
            else:
                await self.refuse(send, 403, "This request did not come from a page of Daybook.")
        elif not session or not is_from_own_page(headers, safe=True):
            await self.refuse(send)
        else:
            scope["daybook"] = {"session": session, "csrf": self.csrf_token(session)}
            await self.application(scope, receive, send)


def csrf_token(request: Request) -> str:
    """Return the token that each form of this session's pages has to send back."""
    return str(request.scope["daybook"]["csrf"])


async def read_form(request: Request) -> dict[str, list[str]]:
    """Return the fields of a submitted form, without the token.

    Raises `InvalidInput` if the token is missing or of another session.
    """
    import hmac

    text = (await request.body()).decode(errors="replace")
    fields = parse_qs(text, keep_blank_values=True)
    given = request.headers.get(CSRF_HEADER) or (fields.pop(CSRF_FIELD, None) or [""])[0]
    if not hmac.compare_digest(given.encode(), csrf_token(request).encode()):
        raise InvalidInput("form", "it is not of this session", "reload the page and try again")
    return fields


def _is_short(headers: Mapping[bytes, str]) -> bool:
    length = headers.get(b"content-length", "0")
    return length.isdecimal() and int(length) <= MAX_FORM_BYTES


def _with_headers(send: Send, *, is_static: bool) -> Send:
    """Wrap ``send``: add `HEADERS` to the response, where it has not set them itself."""

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
