"""The route `POST /hooks/<name>`: limits, signature, filter, and the run that a request starts.

===  =======================================================================================
202  the run, `{"run_id": …, "repeated": …}`; a repeated delivery gets the first delivery's run
200  signed, but no run starts: a filter does not match, or the sender only tests the connection
400  signed, but too old or from the future, not JSON, or without a usable id
401  there is no such hook, or none of its secrets signed the request: the same answer for both
408  the body did not arrive within `BODY_TIMEOUT_SECONDS`
409  signed, but the hook's job was removed
413  the body is larger than `MAX_BODY_BYTES`
429  signed, but the hook gets more requests than its rate allows
503  too many requests at once, or the ledger cannot be read or written now
===  =======================================================================================

A request without a valid signature causes no query of its own, because the receiver reads the index
of the hooks at most four times a second. `/metrics` counts each answer. The receiver logs each kind
of refusal at most once in `LOG_INTERVAL_SECONDS`, without the body and the headers of the request.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from daybook import home as homes
from daybook.api import hooks
from daybook.clock import Clock
from daybook.delivery.home_secret import new_secret
from daybook.errors import DaybookError, InvalidInput, NotFound, one_line
from daybook.hooks import filters, signatures
from daybook.hooks.documents import Hook
from daybook.hooks.index import HookIndex
from daybook.hooks.signatures import SCHEMES, Signed
from daybook.jobs import payloads
from daybook.ledger.engine import Ledger
from daybook.operations.connections import RequestSlots

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 2**20
MAX_RECEIVED_BYTES = 2**24
"""Maximum number of bytes that the server reads of a body that is too large, before it answers."""
BODY_TIMEOUT_SECONDS = 10.0
"""Maximum time to receive a body."""
MAX_REQUESTS = 60
"""Maximum number of concurrent requests to hooks. It leaves slots for the other pages."""
LEDGER_TIMEOUT = timedelta(seconds=5)
"""Maximum time to wait for the ledger's lock. GitHub gives up after 10 s."""
LOG_INTERVAL_SECONDS = 10.0
"""Minimum interval between two log lines about the same kind of refusal."""

_UNKNOWN = "unauthorized"
_HEADERS = {"cache-control": "no-store", "x-content-type-options": "nosniff"}

RESULTS = (
    *("accepted", "repeated", "ignored", "invalid", _UNKNOWN, "too_slow", "job_removed"),
    *("too_large", "rate_limited", "busy", "unavailable"),
)
"""The possible results of a request. `/metrics` counts the requests by result."""


class _Answer(Exception):  # this exception ends the processing of a request
    """The answer to a request. ``result`` is one of `RESULTS`; ``cause`` is only for the log."""

    cause = ""

    def __init__(self, status: int, result: str, **content: Any) -> None:
        self.status, self.result, self.content = status, result, content
        super().__init__(result)


def _refusal(status: int, result: str, why: str) -> _Answer:
    return _Answer(status, result, error=why)


@dataclass
class _Rate:
    """Token bucket of a hook: it has at most ``per_minute`` tokens, and fills in a minute."""

    per_minute: int
    left: float
    at: float

    def take(self, now: float) -> float:
        """Take one token, and return 0.

        If there is no token, return the seconds until the next one.
        """
        self.left = min(self.per_minute, self.left + (now - self.at) * self.per_minute / 60)
        self.at = now
        if self.left < 1:
            return (1 - self.left) * 60 / self.per_minute
        self.left -= 1
        return 0.0


@dataclass
class HookReceiver:
    """Receiver of the requests to hooks. ``counts`` has the number of answers by result.

    The first request opens the ledger at ``address``, and `close` closes it. ``clock`` is passed to
    `Ledger`.
    """

    address: str
    clock: Clock | None = None
    counts: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(RESULTS, 0)))
    _ledger: Ledger | None = None
    _opening: asyncio.Lock = field(default_factory=asyncio.Lock)
    _index: HookIndex = field(default_factory=lambda: HookIndex(homes.current_home()))
    _rates: dict[str, _Rate] = field(default_factory=dict)
    _slots: RequestSlots = field(default_factory=lambda: RequestSlots(MAX_REQUESTS, MAX_REQUESTS))
    _decoy: str = field(default_factory=new_secret, repr=False)
    _logged: dict[str, tuple[float, int]] = field(default_factory=dict)

    @property
    def route(self) -> Route:
        return Route(f"{hooks.PATH}{{name}}", self.receive, methods=["POST"])

    async def receive(self, request: Request) -> Response:
        """Answer a request to a hook."""
        with self._slots.slot("") as free:
            try:
                if not free:
                    raise _refusal(503, "busy", "too many requests at once")
                answer = await self._process(request)
            except _Answer as other:
                answer = other
            except ClientDisconnect:
                answer = _refusal(408, "too_slow", "the request ended early")
            except InvalidInput as error:
                answer = _refusal(400, "invalid", f"the {error.field} {error.problem}")
            except NotFound as error:
                answer = _refusal(409, "job_removed", str(error))
            except DaybookError as error:
                answer = _refusal(503, "unavailable", "the ledger does not answer")
                answer.cause = one_line(error)
        return self._response(request, answer)

    async def close(self) -> None:
        """Close the ledger, if it is open."""
        ledger, self._ledger = self._ledger, None
        if ledger is not None:
            await ledger.close()

    async def _process(self, request: Request) -> _Answer:
        body = await _read_body(request)
        headers = {name.lower(): value for name, value in request.headers.items()}
        ledger = await self._open()
        hook = await self._index.find(ledger, request.path_params["name"])
        signed = self._verified(hook, headers, body, ledger.now())
        if hook is None or signed is None:
            raise _refusal(401, _UNKNOWN, "no such hook, or the signature is not valid")
        if not signed.is_current(ledger.now()):
            why = "the timestamp is more than 5 minutes off; send the request again, or set a clock"
            raise _refusal(400, "invalid", why)
        if wait := self._rate(hook).take(time.monotonic()):
            raise _Answer(429, "rate_limited", error="more than the rate", retry_after=wait)
        if hook.scheme.is_probe(headers):
            return _Answer(200, "ignored", run_id=None, reason="only a test of the connection")
        payload = payloads.read(body)
        delivery_id = hook.scheme.id_in(payload) if signed.id is None else signed.id
        if not signatures.is_id(delivery_id):
            why = f"the delivery has no id of {signatures.ID_FORM}"
            raise _refusal(400, "invalid", why)
        if wrong := filters.first_mismatch(hook.filters, payload):
            return _Answer(200, "ignored", run_id=None, reason=f"the filter {wrong} does not fit")
        run = await hooks.deliver(ledger, hook, delivery_id, payload)
        result = "repeated" if run.repeated else "accepted"
        return _Answer(202, result, run_id=run.run_id, repeated=run.repeated)

    def _verified(
        self, hook: Hook | None, headers: Mapping[str, str], body: bytes, now: datetime
    ) -> Signed | None:
        """Return the signed id and time.

        Return None unless a secret of the hook signed the request. The number of computed
        signatures is the same for each hook, even for a hook that does not exist. So the response
        time does not show whether the hook exists.
        """
        valid = [] if hook is None else hook.secrets(now)
        scheme = SCHEMES["standard"] if hook is None else hook.scheme
        return scheme.verify([*valid, self._decoy, self._decoy][:2], headers, body)

    def _rate(self, hook: Hook) -> _Rate:
        rate = self._rates.get(hook.name)
        if rate is None or rate.per_minute != hook.rate:
            rate = self._rates[hook.name] = _Rate(hook.rate, hook.rate, time.monotonic())
        return rate

    async def _open(self) -> Ledger:
        async with self._opening:
            if self._ledger is None:
                ledger = Ledger(self.address, self.clock, busy=LEDGER_TIMEOUT)
                self._ledger = await ledger.__aenter__()
            return self._ledger

    def _response(self, request: Request, answer: _Answer) -> Response:
        self.counts[answer.result] += 1
        headers = dict(_HEADERS)
        wait = answer.content.pop("retry_after", 1.0)
        if answer.status in (429, 503):
            headers["retry-after"] = str(math.ceil(wait))
        if answer.result in ("too_slow", "too_large", "busy"):  # the body may not have been read
            headers["connection"] = "close"
        if answer.status >= 400:
            self._log_refusal(answer, request.client.host if request.client else "")
        return JSONResponse(answer.content, answer.status, headers)

    def _log_refusal(self, answer: _Answer, peer: str) -> None:
        now, (logged_at, unlogged) = time.monotonic(), self._logged.get(answer.result, (-1e9, 0))
        if now - logged_at < LOG_INTERVAL_SECONDS:
            self._logged[answer.result] = (logged_at, unlogged + 1)
            return
        self._logged[answer.result] = (now, 0)
        more = f" ({unlogged:,} more since the last such line)" if unlogged else ""
        log.warning(
            "hooks: refused a request from %s: %s %s%s",
            peer,
            answer.status,
            answer.cause or answer.content.get("error", answer.result),
            more,
            extra={"action": "hook_refused"},
        )


async def _read_body(request: Request) -> bytes:
    """Return the body. Raise an `_Answer` if it is too large, or if it does not arrive in time.

    Read a body that is too large up to `MAX_RECEIVED_BYTES`, but do not keep it. Otherwise the
    sender would get a broken connection and no answer. If `Content-Length` exceeds this limit or is
    not a number, read nothing.
    """
    too_large = _refusal(413, "too_large", f"the body has more than {MAX_BODY_BYTES:,} bytes")
    length = request.headers.get("content-length", "0")
    if not length.isdigit() or int(length[:12]) > MAX_RECEIVED_BYTES:
        raise too_large
    parts, size = list[bytes](), 0
    try:
        async with asyncio.timeout(BODY_TIMEOUT_SECONDS):
            async for part in request.stream():
                size += len(part)
                if size > MAX_RECEIVED_BYTES:
                    raise too_large
                if size <= MAX_BODY_BYTES:
                    parts.append(part)
                else:
                    parts.clear()
    except TimeoutError:
        raise _refusal(408, "too_slow", "the body took too long") from None
    if size > MAX_BODY_BYTES:
        raise too_large
    return b"".join(parts)
