"""One HTTP request to a URL that another party chose, and its response.

::

    request ─┬─► whole response                               `Response`
             ├─► response too long, or not decodable          `Response` with `cut`, rest unread
             ├─► not sent: not found, refused or timed out    `NoResponse`
             ├─► sent, but no or only a partial response      `NoResponse` with `sent`
             └─► the guard refuses the address                `OutgoingRefused`

The timeout limits the whole exchange: resolving, connecting, sending, redirects and reading. So a
response that arrives one byte at a time also times out.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Collection, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from string import punctuation
from typing import Any, get_args
from urllib.parse import quote

import httpx

import daybook
from daybook.errors import DaybookError, InvalidInput
from daybook.http import guard
from daybook.http.bodies import ACCEPT_ENCODING, BoundedBody
from daybook.http.transport import PROGRESS_EXTENSION, SECRETS_EXTENSION, GuardedTransport, Progress
from daybook.jobs.action_fields import Method

MAX_BODY_BYTES = 2**20
"""Maximum number of bytes of a response body that `request` reads."""

MAX_HEADERS = 100
MAX_HEADER_VALUE_LENGTH = 16_384
"""Maximum length of a header value in characters. Servers accept 8,192 or 16,384 bytes."""

IDEMPOTENCY_KEY = "Idempotency-Key"
RETRYABLE_STATUSES = (429, 503)
_UNQUOTED = punctuation.replace("%", "")

METHODS: tuple[str, ...] = get_args(Method)

_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+\Z")
_VALUE = re.compile(r"([\x21-\x7e]([\t\x20-\x7e]*[\x21-\x7e])?)?\Z")
_RESERVED_HEADERS = {
    "accept-encoding",
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "trailer",
    "transfer-encoding",
    "upgrade",
}


@dataclass(frozen=True)
class Response:
    """A response. ``body`` is decompressed.

    ``cut`` is the reason why ``body`` is incomplete; empty if it is complete. ``redirects``
    describes each followed redirect, such as "308 to https://example.org". ``had_effect`` is true
    if a redirect reported that the request had its effect. Then this is the response to a request
    that followed the redirect. ``moved_to`` is the URL of the last redirect, "" if there is none.
    """

    status: int
    headers: httpx.Headers
    body: bytes
    cut: str = ""
    redirects: tuple[str, ...] = ()
    had_effect: bool = False
    moved_to: str = ""


class NoResponse(DaybookError):
    """The error that no response arrived, or only a part of one.

    ``sent`` is true if the request was sent and may have had its effect. ``timed_out`` is true if
    the timeout expired. ``misconfigured`` is true if a retry cannot help. ``part`` is the part of
    the response that arrived; None if not even its headers arrived.
    """

    code = "no_answer"

    def __init__(
        self,
        message: str,
        *,
        sent: bool,
        timed_out: bool = False,
        misconfigured: bool = False,
        part: Response | None = None,
    ) -> None:
        self.sent = sent
        self.timed_out = timed_out
        self.misconfigured = misconfigured
        self.part = part
        super().__init__(message)


async def request(
    transport: GuardedTransport,
    method: str,
    url: str,
    *,
    headers: Mapping[str, str],
    body: bytes = b"",
    secret: Collection[str] = (),
    timeout: float = 30.0,
    limit: int = MAX_BODY_BYTES,
) -> Response:
    """Send one request, and return the response. ``timeout`` is in seconds, ``limit`` in bytes.

    ``secret`` has the names of the headers that contain secrets. Raise `NoResponse`,
    `OutgoingRefused`, and `InvalidInput` for an invalid method, header or URL.
    """
    check(method, headers)
    address = transport.guard.check(url)
    progress = Progress()
    client = transport.library.http
    given = {name.lower() for name in headers}
    defaults = {"Accept": "*/*", "User-Agent": f"daybook/{daybook.__version__}"}
    kept = [(name, value) for name, value in defaults.items() if name.lower() not in given]
    outgoing = client.Request(
        method,
        str(address),
        headers=[*kept, ("Accept-Encoding", ACCEPT_ENCODING), *headers.items()],
        content=body or None,
        extensions={
            PROGRESS_EXTENSION: progress,
            SECRETS_EXTENSION: {name.lower() for name in secret},
            "timeout": {"connect": timeout},
        },
    )
    exchange = _Exchange(limit, progress)
    try:
        async with asyncio.timeout(timeout):
            return await exchange.carry_out(transport, outgoing)
    except (TimeoutError, client.TimeoutException) as error:
        reason = f"{guard.origin(address)} did not answer within {timeout:g} s"
        raise NoResponse(
            reason, sent=progress.sent, timed_out=True, part=exchange.so_far()
        ) from error
    except client.TransportError as error:
        raise _no_answer(error, guard.origin(address), exchange) from error


def check(method: str, headers: Mapping[str, str]) -> None:
    """Raise `InvalidInput` for an invalid method or header.

    The message never contains the value of a header.
    """
    if method not in METHODS:
        raise InvalidInput("method", f'"{method[:20]}" is not valid', f"use {', '.join(METHODS)}")
    if len(headers) > MAX_HEADERS:
        raise InvalidInput("headers", f"there are {len(headers):,}", f"use at most {MAX_HEADERS}")
    seen = set()
    for name, value in headers.items():
        low = name.lower()
        if len(value) > MAX_HEADER_VALUE_LENGTH:
            raise InvalidInput(
                "headers",
                f"the value of {name[:60]!r} has {len(value):,} characters",
                f"use at most {MAX_HEADER_VALUE_LENGTH:,}",
            )
        if not _NAME.match(name):
            raise InvalidInput(
                "headers", f"{name[:60]!r} is not a header name", "use a name such as X-Team"
            )
        if low in _RESERVED_HEADERS or low.startswith("proxy-"):
            raise InvalidInput("headers", f'a job cannot set "{name}"', "remove it")
        if low in seen:
            raise InvalidInput("headers", f'"{name}" occurs twice', "write it once")
        if not _VALUE.match(value):
            raise InvalidInput(
                "headers",
                f'the value of "{name}" is not valid in a header',
                "use one line of ASCII without leading or trailing spaces",
            )
        seen.add(low)


class _Exchange:
    """One exchange, and the received part of its response."""

    def __init__(self, limit: int, progress: Progress) -> None:
        self.progress = progress
        self._limit = limit
        self._response: Any = None
        self._body: BoundedBody | None = None

    async def carry_out(self, transport: GuardedTransport, outgoing: Any) -> Response:
        response = await transport.handle_async_request(outgoing)
        try:
            self._response, self._body = response, BoundedBody(response.headers, self._limit)
            async with aclosing(response.aiter_raw()) as parts:
                async for part in parts:
                    if not self._body.add(part):
                        break
                else:
                    self._body.end()
        finally:
            await response.aclose()
        answer = self.so_far()
        assert answer is not None
        return answer

    def so_far(self) -> Response | None:
        if self._response is None or self._body is None:
            return None
        response, body = self._response, self._body
        return Response(
            response.status_code,
            response.headers,
            bytes(body),
            body.cut,
            self.progress.redirects,
            self.progress.had_effect,
            self.progress.moved_to,
        )


def _no_answer(error: Exception, address: str, exchange: _Exchange) -> NoResponse:
    certificate = certificate_problem(error)
    detail = certificate or str(error)
    sent = exchange.progress.sent
    reason = (
        "the connection ended before the whole response arrived" if sent else "it cannot be reached"
    )
    return NoResponse(
        f"{address}: {reason}" + (f" ({detail})" if detail else ""),
        sent=sent,
        misconfigured=bool(certificate),
        part=exchange.so_far(),
    )


def certificate_problem(error: BaseException) -> str:
    """Return the reason why a certificate was refused. Return "" if ``error`` has another cause."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLCertVerificationError):
        cause = cause.__cause__ or cause.__context__
    return "" if cause is None else f"its certificate is not trusted: {cause.verify_message}"


MAX_REQUESTED_DELAY = timedelta(hours=1)
"""Longest wait that a service can request: a wrong value must not silence a job or a callback."""

_SECONDS = re.compile(r"[0-9]+(\.[0-9]*)?|\.[0-9]+")


def status_text(status: int) -> str:
    """Return ``status`` with its standard phrase, such as `404 Not Found`, if it has one."""
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def retry_after(text: str, now: datetime) -> float | None:
    """Return the seconds in the value of a ``Retry-After`` header, a number or a date, or None.

    The standard allows only whole seconds, but servers also send fractions.
    """
    if _SECONDS.fullmatch(text.strip()):
        return float(text)
    with suppress(ValueError, TypeError, OverflowError):
        return max(0.0, (parsedate_to_datetime(text) - now).total_seconds())
    return None


def idempotency_key(occurrence: str) -> str:
    """Return ``occurrence`` for the header `Idempotency-Key`, percent-encoded.

    Only ASCII letters, digits and punctuation except `%` stay.
    """
    return quote(occurrence, safe=_UNQUOTED)
