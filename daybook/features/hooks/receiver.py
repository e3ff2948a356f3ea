"""The endpoint `POST /hooks/<name>`: limits, signature, filter, and the run that a request starts.

===  =======================================================================================
202  the run, `{"run_id": …, "repeated": …}`; a repeated delivery gets the first delivery's run
200  signed, but no run starts: a filter does not match, or the sender only tests the connection
400  signed, but too old or from the future, neither JSON nor a form with it, or without a usable id
401  there is no such hook, or none of its secrets signed the request: the same answer for both
408  the body did not arrive within `BODY_TIMEOUT_SECONDS`
409  signed and new, but the hook's job was removed
413  the body is larger than the setting `max_hook_body`
429  signed and new, but the hook has started as many runs as its rate allows
503  too many requests at once, or the ledger cannot be read or written now
===  =======================================================================================

A request without a valid signature causes no query of its own, because the receiver reads the index
of the hooks at most four times a second. A request uses one of the `MAX_REQUESTS` slots only after
its body has arrived (`daybook.web.request_bodies`). `/metrics` counts each answer.

The receiver logs each kind of refusal of each hook at most once in `LOG_INTERVAL_SECONDS`, with the
hook's name and the reason, without the body and the headers of the request. It writes the line
after the answer, so the response time does not show whether the hook exists.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, ClassVar, Self

from prometheus_client.core import CounterMetricFamily
from prometheus_client.metrics_core import Metric
from starlette.background import BackgroundTask
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from daybook import home as homes
from daybook import settings
from daybook.clock import Clock
from daybook.delivery.home_secret import new_secret
from daybook.errors import DaybookError, InvalidInput, NotFound, UnreadableJob
from daybook.features.hooks import filters, operations, signatures
from daybook.features.hooks.documents import STORE, Hook
from daybook.features.hooks.index import HookIndex
from daybook.features.hooks.operator_settings import HookSizes
from daybook.features.hooks.signatures import SCHEMES, Signed
from daybook.jobs import payloads
from daybook.ledger.engine import Ledger
from daybook.operations.connections import RequestSlots
from daybook.short_text import one_line
from daybook.web.request_bodies import BodyRefused, RequestBodies

log = logging.getLogger(__name__)

MAX_REQUESTS = 60
"""Maximum number of requests to hooks that are processed at once."""
LEDGER_TIMEOUT = timedelta(seconds=5)
"""Maximum time to wait for the ledger's lock. GitHub gives up after 10 s."""
LOG_INTERVAL_SECONDS = 10.0
"""Minimum interval between two log lines about the same kind of refusal."""

_UNKNOWN = "unauthorized"
_BODY_RESULTS = {408: "too_slow", 413: "too_large", 503: "busy"}
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


def _too_many(hook: Hook, wait: timedelta) -> _Answer:
    why = f"the hook starts at most {hook.rate:,} runs per minute"
    return _Answer(429, "rate_limited", error=why, retry_after=wait.total_seconds())


@dataclass
class HookReceiver:
    """Receiver of the requests to hooks. ``counts`` has the number of answers by result.

    The first request opens the ledger at ``address``, and `close` closes it. ``clock`` is passed to
    `Ledger`. ``max_body`` is the maximum size of a body in bytes.
    """

    path: ClassVar[str] = operations.PATH
    help: ClassVar[str] = (
        "a signed request that starts a job: see [Hooks](../guides/hooks.md#the-answer)"
    )
    address: str
    clock: Clock | None = None
    max_body: int = 2**20
    counts: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(RESULTS, 0)))
    _ledger: Ledger | None = None
    _opening: asyncio.Lock = field(default_factory=asyncio.Lock)
    _index: HookIndex = field(default_factory=lambda: HookIndex(homes.current_home()))
    _slots: RequestSlots = field(default_factory=lambda: RequestSlots(MAX_REQUESTS, MAX_REQUESTS))
    _decoy: str = field(default_factory=new_secret, repr=False)
    _full: dict[str, tuple[int, datetime]] = field(default_factory=dict)
    _logged: dict[tuple[str, str], tuple[float, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._bodies = RequestBodies(self.max_body)

    @classmethod
    def of(cls, address: str, clock: Clock | None = None) -> Self:
        """Return a receiver with the size of a body from the settings."""
        return cls(address, clock, settings.part(HookSizes).max_hook_body * 2**20)

    def metrics(self) -> Iterator[Metric]:
        """Yield the number of requests by result."""
        requests = CounterMetricFamily(
            "daybook_hook_requests",
            "Requests to hooks since this process started, by result.",
            labels=["result"],
        )
        for result, count in self.counts.items():
            requests.add_metric([result], count)
        yield requests

    async def receive(self, request: Request) -> Response:
        """Answer a request to a hook."""
        hook: Hook | None = None
        try:
            async with self._bodies.receive(request) as body:
                with self._slots.slot("") as free:
                    if not free:
                        raise _refusal(503, "busy", "too many requests at once")
                    ledger = await self._open()
                    hook = await self._index.find(ledger, request.path_params["name"])
                    answer = await self._process(ledger, hook, request, body)
        except _Answer as other:
            answer = other
        except BodyRefused as error:
            answer = _refusal(error.status, _BODY_RESULTS[error.status], error.why)
        except ClientDisconnect:
            answer = _refusal(408, "too_slow", "the request ended early")
        except UnreadableJob as error:
            answer = _refusal(503, "unavailable", "the job of this hook cannot be read")
            answer.cause = one_line(error)
        except InvalidInput as error:
            answer = _refusal(400, "invalid", f"the {error.field} {error.problem}")
        except NotFound as error:
            answer = _refusal(409, "job_removed", str(error))
        except DaybookError as error:
            answer = _refusal(503, "unavailable", "the ledger does not answer")
            answer.cause = one_line(error)
        return self._response(request, hook, answer)

    async def close(self) -> None:
        """Close the ledger, if it is open."""
        ledger, self._ledger = self._ledger, None
        if ledger is not None:
            await ledger.close()

    async def _process(
        self, ledger: Ledger, hook: Hook | None, request: Request, body: bytes
    ) -> _Answer:
        headers = {name.lower(): value for name, value in request.headers.items()}
        signed = self._verified(hook, headers, body, ledger.now())
        if hook is None or signed is None:
            refusal = _refusal(401, _UNKNOWN, "no such hook, or the signature is not valid")
            if hook is None:
                refusal.cause = "there is no hook with this name"
            else:
                refusal.cause = signatures.unsigned_reason(hook.scheme_name, headers)
            raise refusal
        if not signed.is_current(ledger.now()):
            why = "the timestamp is more than 5 minutes off; send the request again, or set a clock"
            raise _refusal(400, "invalid", why)
        # A test of the connection succeeds only if Daybook can also read the events.
        payload = payloads.read(body)
        if hook.scheme.is_probe(headers):
            return _Answer(200, "ignored", run_id=None, reason="only a test of the connection")
        delivery_id = hook.scheme.id_in(payload) if signed.id is None else signed.id
        if not hook.scheme.is_id(delivery_id):
            why = f"the delivery has no id of {hook.scheme.id_form}"
            raise _refusal(400, "invalid", why)
        if wrong := filters.first_mismatch(hook.filters, payload):
            return _Answer(200, "ignored", run_id=None, reason=f"the filter {wrong} does not fit")
        if known := await operations.find_run(ledger, hook, delivery_id):
            return _Answer(202, "repeated", run_id=known, repeated=True)
        if (wait := self._wait(hook, ledger.now())) is not None:
            raise _too_many(hook, wait)
        run = await operations.deliver(ledger, hook, delivery_id, payload)
        if run.run_id is None:
            self._full[hook.name] = hook.rate, ledger.now() + run.wait
            raise _too_many(hook, run.wait)
        result = "repeated" if run.is_repeated else "accepted"
        return _Answer(202, result, run_id=run.run_id, repeated=run.is_repeated)

    def _verified(
        self, hook: Hook | None, headers: Mapping[str, str], body: bytes, now: datetime
    ) -> Signed | None:
        """Return the signed id and time; None unless a secret of the hook signed the request.

        Compute as many signatures for a hook that does not exist, so that the time of the response
        does not show this.
        """
        valid = [] if hook is None else hook.secrets(now)
        scheme = SCHEMES["standard"] if hook is None else hook.scheme
        return scheme.verify([*valid, self._decoy, self._decoy][:2], headers, body)

    def _wait(self, hook: Hook, now: datetime) -> timedelta | None:
        """Return how long the hook can start no run, as far as the ledger has said; otherwise None.

        So too many requests need no transaction that writes. A wait of more than
        `operations.RATE_PERIOD` was written before the clock was set back.
        """
        rate, until = self._full.get(hook.name, (0, now))
        is_known = rate == hook.rate and now < until <= now + operations.RATE_PERIOD
        return until - now if is_known else None

    async def _open(self) -> Ledger:
        async with self._opening:
            if self._ledger is None:
                ledger = Ledger(self.address, self.clock, busy=LEDGER_TIMEOUT)
                self._ledger = await ledger.__aenter__()
            return self._ledger

    def _response(self, request: Request, hook: Hook | None, answer: _Answer) -> Response:
        self.counts[answer.result] += 1
        headers = dict(_HEADERS)
        wait = answer.content.pop("retry_after", 1.0)
        if answer.status in (429, 503):
            headers["retry-after"] = str(math.ceil(wait))
        if answer.result in ("too_slow", "too_large", "busy"):  # the body may not have been read
            headers["connection"] = "close"
        log_refusal = None
        if answer.status >= 400:
            log_refusal = BackgroundTask(self._log_refusal, request, hook, answer)
        return JSONResponse(answer.content, answer.status, headers, background=log_refusal)

    async def _log_refusal(self, request: Request, hook: Hook | None, answer: _Answer) -> None:
        # Strangers can only add one line for each result and each existing hook.
        kind = (answer.result, "" if hook is None else hook.name)
        now, (logged_at, unlogged) = time.monotonic(), self._logged.get(kind, (-1e9, 0))
        if now - logged_at < LOG_INTERVAL_SECONDS:
            self._logged[kind] = (logged_at, unlogged + 1)
            return
        self._logged[kind] = (now, 0)
        name = request.path_params["name"]
        log.warning(
            "hooks: refused a request to %s from %s: %s %s%s",
            name if STORE.is_name(name) else "a name that no hook can have",
            request.client.host if request.client else "",
            answer.status,
            answer.cause or answer.content.get("error", answer.result),
            f" ({unlogged:,} more since the last such line)" if unlogged else "",
            extra={"action": "hook_refused"},
        )
