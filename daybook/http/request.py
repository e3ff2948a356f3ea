"""One request to an address that somebody chose, and its answer.

::

    ask ─┬─► the answer, whole                              `Answer`
         ├─► the answer, longer than is kept                `Answer` with `cut`, the rest unread
         ├─► nothing was sent: not found, refused, no time  `NoAnswer`
         ├─► sent, and no answer, or only a part of one     `NoAnswer`, `sent`
         └─► the address may not be reached                 `OutgoingRefused`

The time is that of the whole exchange: looking up, connecting, sending, redirects, and reading, so
that an answer which comes a byte at a time ends as well.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Collection, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from string import punctuation
from typing import Any, get_args
from urllib.parse import quote

import httpx

import daybook
from daybook.errors import DaybookError, InvalidInput
from daybook.http import guard
from daybook.http.bodies import ENCODINGS, Body
from daybook.http.transport import PROGRESS, SECRETS, GuardedTransport, Progress
from daybook.jobs.actions import Method

LIMIT = 2**20
"""Bytes of an answer that are kept."""

MOST_HEADERS = 100
LONGEST_VALUE = 16_384
"""Characters of a header's value: servers take 8,192 or 16,384 bytes of one."""

IDEMPOTENCY_KEY = "Idempotency-Key"
TRY_AGAIN = (429, 503)
_SENT_AS_IT_IS = punctuation.replace("%", "")

METHODS: tuple[str, ...] = get_args(Method)

_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+\Z")
_VALUE = re.compile(r"([\x21-\x7e]([\t\x20-\x7e]*[\x21-\x7e])?)?\Z")
_NOT_THEIRS = {
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
class Answer:
    """``body`` is decompressed; ``cut`` says why it is only the beginning, empty where it is whole.

    ``turned`` tells each redirect that was followed, as "308 to https://example.org".
    """

    status: int
    headers: httpx.Headers
    body: bytes
    cut: str = ""
    turned: tuple[str, ...] = ()


class NoAnswer(DaybookError):
    """No answer, or not the whole of one.

    ``sent`` says that the request has left, so that it may have had its effect; ``timed_out`` that
    the time was up; ``misconfigured`` that trying again cannot help; ``part`` is what had come.
    """

    code = "no_answer"

    def __init__(
        self,
        message: str,
        *,
        sent: bool,
        timed_out: bool = False,
        misconfigured: bool = False,
        part: Answer | None = None,
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
    limit: int = LIMIT,
) -> Answer:
    """Ask once; ``timeout`` in seconds, ``limit`` in bytes.

    ``secret`` names the headers that hold secrets. Raises `NoAnswer`, `OutgoingRefused`, and
    `InvalidInput` for a header or an address that is none.
    """
    check(method, headers)
    address = transport.guard.check(url)
    progress = Progress()
    client = transport.library.http
    asked = client.Request(
        method,
        str(address),
        headers=_with_ours(headers),
        content=body or None,
        extensions={
            PROGRESS: progress,
            SECRETS: {name.lower() for name in secret},
            "timeout": {"connect": timeout},
        },
    )
    exchange = _Exchange(limit, progress)
    try:
        async with asyncio.timeout(timeout):
            return await exchange.carry_out(transport, asked)
    except (TimeoutError, client.TimeoutException) as error:
        told = f"{guard.origin(address)} did not answer within {timeout:g} s"
        raise NoAnswer(told, sent=progress.sent, timed_out=True, part=exchange.so_far()) from error
    except client.TransportError as error:
        raise _no_answer(error, guard.origin(address), exchange) from error


def check(method: str, headers: Mapping[str, str]) -> None:
    """Raise `InvalidInput` for what cannot be sent; the words hold no value of a header."""
    if method not in METHODS:
        raise InvalidInput(
            "method", f'"{method[:20]}" is not legal', f"legal: {', '.join(METHODS)}"
        )
    if len(headers) > MOST_HEADERS:
        raise InvalidInput("headers", f"are {len(headers):,}", f"legal: at most {MOST_HEADERS}")
    seen = set()
    for name, value in headers.items():
        low = name.lower()
        if len(value) > LONGEST_VALUE:
            raise InvalidInput(
                "headers",
                f"the value of {name[:60]!r} has {len(value):,} characters",
                f"legal: at most {LONGEST_VALUE:,}",
            )
        if not _NAME.match(name):
            raise InvalidInput("headers", f"{name[:60]!r} is no name of a header", "such as X-Team")
        if low in _NOT_THEIRS or low.startswith("proxy-"):
            raise InvalidInput("headers", f'"{name}" is not a job\'s to set', "leave it out")
        if low in seen:
            raise InvalidInput("headers", f'"{name}" is there twice', "give it once")
        if not _VALUE.match(value):
            raise InvalidInput(
                "headers",
                f'the value of "{name}" holds what no header can',
                "one line of ASCII, without a space or a line break at its ends",
            )
        seen.add(low)


class _Exchange:
    """One exchange, and what of its answer has come."""

    def __init__(self, limit: int, progress: Progress) -> None:
        self.progress = progress
        self._limit = limit
        self._response: Any = None
        self._body: Body | None = None

    async def carry_out(self, transport: GuardedTransport, asked: Any) -> Answer:
        response = await transport.send(asked)
        try:
            self._response, self._body = response, Body(response.headers, self._limit)
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

    def so_far(self) -> Answer | None:
        if self._response is None or self._body is None:
            return None
        response, body = self._response, self._body
        turned = self.progress.turned
        return Answer(response.status_code, response.headers, bytes(body), body.cut, turned)


def _with_ours(headers: Mapping[str, str]) -> list[tuple[str, str]]:
    given = {name.lower() for name in headers}
    ours = {"Accept": "*/*", "User-Agent": f"daybook/{daybook.__version__}"}
    kept = [(name, value) for name, value in ours.items() if name.lower() not in given]
    return [*kept, ("Accept-Encoding", ENCODINGS), *headers.items()]


def _no_answer(error: Exception, address: str, exchange: _Exchange) -> NoAnswer:
    certificate = untrusted(error)
    why = certificate or str(error)
    sent = exchange.progress.sent
    told = "the connection ended before the whole answer" if sent else "it cannot be reached"
    return NoAnswer(
        f"{address}: {told}" + (f" ({why})" if why else ""),
        sent=sent,
        misconfigured=bool(certificate),
        part=exchange.so_far(),
    )


def untrusted(error: BaseException) -> str:
    """What is wrong with a certificate, where that is what ``error`` comes from; else empty."""
    certificate = _cause(error, ssl.SSLCertVerificationError)
    if isinstance(certificate, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {certificate.verify_message}"
    return ""


def _cause(error: BaseException | None, kind: type[BaseException]) -> BaseException | None:
    while error is not None and not isinstance(error, kind):
        error = error.__cause__ or error.__context__
    return error


def words_of(status: int) -> str:
    """``status`` with its phrase, where it has one."""
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def retry_after(text: str, now: datetime) -> float | None:
    """The seconds of a ``Retry-After``, which may be a date; None for what is neither."""
    if text.strip().isascii() and text.strip().isdigit():
        return float(text)
    with suppress(ValueError, TypeError, OverflowError):
        return max(0.0, (parsedate_to_datetime(text) - now).total_seconds())
    return None


def idempotency_key(occurrence: str) -> str:
    """``occurrence`` as a header can hold it: anything else as ``%`` and two digits."""
    return quote(occurrence, safe=_SENT_AS_IT_IS)
