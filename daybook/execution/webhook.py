"""Act of a webhook job: one HTTP request, whose result decides the outcome of the run.

========================================================  ======================================
2xx                                                       succeeded
429, 503                                                  failed, temporary; after a redirect
                                                          that reports an effect, only if the job
                                                          is idempotent
connection refused, unknown host, timeout connecting      failed or timed out, temporary
no response after the sending, or only part of a 2xx      unknown; if the job is idempotent:
                                                          failed or timed out, temporary
any other status; an untrusted certificate                failed
an address, a header or a secret that is refused          raises `InvalidInput`; failed
========================================================  ======================================

Promise 4 has the rules for retries after a temporary result. ``Idempotency-Key`` is the occurrence,
which is the same in every attempt.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from daybook.clock import SYSTEM_CLOCK, Clock
from daybook.errors import InvalidInput
from daybook.http import bodies, request, secrets
from daybook.http.guard import Guard, origin
from daybook.http.httpx_transport import HttpxTransport
from daybook.http.request import NoResponse, Response
from daybook.http.secrets import FilledSecrets, SecretDestination, SecretStore
from daybook.jobs import payloads
from daybook.json_text import JsonObject
from daybook.ledger.states import Outcome, Status


class WebhookRequest(Protocol):
    """Request of a job. Headers may contain ``{{secret:name}}``, and the body ``{{payload}}``.

    The body is sent as UTF-8.
    """

    @property
    def url(self) -> str: ...
    @property
    def method(self) -> str: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    @property
    def body(self) -> str | None: ...


@dataclass(frozen=True)
class PreparedWebhook:
    """Request that is ready to be sent. It contains secrets, so do not store or show it."""

    method: str
    url: str
    body: bytes = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    secret: frozenset[str] = frozenset()
    filled: FilledSecrets = field(default_factory=FilledSecrets, repr=False)


@dataclass(frozen=True)
class WebhookResult:
    """Result of a request.

    ``temporary`` is True if the request may be retried. ``retry_after`` is the delay in seconds
    that the receiver requested, or None.
    """

    outcome: Outcome
    temporary: bool = False
    retry_after: float | None = None


def check_action(action: WebhookRequest, guard: Guard) -> None:
    """Raise `InvalidInput` for an invalid request of a new job or of a run; look up no DNS name."""
    if "{{" in action.url:
        raise InvalidInput(
            "url", "contains {{…}}", "use {{secret:name}} in the value of a header instead"
        )
    guard.check(action.url)
    request.check(action.method, action.headers)
    for name, value in action.headers.items():
        if name.lower() == request.IDEMPOTENCY_KEY.lower():
            raise InvalidInput("headers", f'"{name}" is set by Daybook', "remove it")
        if payloads.is_used(value):
            raise InvalidInput(
                "headers", f'"{name}" contains {{{{payload}}}}', "use it in the body"
            )
        secrets.references("headers", value)
    secrets.refuse_literal_headers(action.headers)
    types = [value for name, value in action.headers.items() if name.lower() == "content-type"]
    payloads.check_body(action.body or "", "".join(types))


async def prepare(
    action: WebhookRequest, occurrence: str, guard: Guard, source: SecretStore, payload: Any = None
) -> PreparedWebhook:
    """Return the request, ready to be sent; call this between claim and begin.

    ``payload`` is the run's payload (`daybook.jobs.payloads`), for the body. Raise `InvalidInput`,
    and the errors of an unreachable ``source``.
    """
    check_action(action, guard)
    destination = SecretDestination.of_url(guard.check(action.url))
    filled = FilledSecrets()
    headers = {
        name: await secrets.fill("headers", value, destination, source, filled)
        for name, value in action.headers.items()
    }
    secret = {
        name.lower() for name, value in action.headers.items() if secrets.references("", value)
    }
    headers[request.IDEMPOTENCY_KEY] = request.idempotency_key(occurrence)
    body = payloads.fill_body(action.body or "", payload).encode("utf-8", errors="replace")
    if body and not any(name.lower() == "content-type" for name in headers):
        headers["Content-Type"] = "application/json"
    request.check(action.method, headers)
    return PreparedWebhook(action.method, action.url, body, headers, frozenset(secret), filled)


async def send(
    prepared: PreparedWebhook,
    transport: HttpxTransport,
    *,
    timeout: float = 30.0,
    idempotent: bool = False,
    clock: Clock = SYSTEM_CLOCK,
) -> WebhookResult:
    """Send the request once, within ``timeout`` seconds.

    Raise `OutgoingRefused`, before anything is sent, if the guard does not allow the address.
    """
    hide, url = prepared.filled.hide, transport.guard.check(prepared.url)
    address = origin(url) + hide(url.path)
    try:
        answer = await request.request(
            transport,
            prepared.method,
            prepared.url,
            headers=prepared.headers,
            body=prepared.body,
            secret=prepared.secret,
            timeout=timeout,
        )
    except NoResponse as error:
        if error.part is None or 200 <= error.part.status < 300:
            message = hide(str(error).replace(origin(url), address, 1))
            return _result_without_answer(error, message, prepared, idempotent=idempotent)
        # The status shows that the request failed, even if the body is incomplete.
        answer = error.part
    may_repeat = idempotent or not answer.had_effect
    return _result_of_answer(answer, address, prepared, clock.now(), may_repeat=may_repeat)


def _result_of_answer(
    answer: Response, address: str, prepared: PreparedWebhook, now: datetime, *, may_repeat: bool
) -> WebhookResult:
    result = _result_json(answer, prepared, is_cut=bool(answer.cut))
    redirects = f"redirected: {'; '.join(answer.redirects)}" if answer.redirects else ""
    cut = f"cut: {answer.cut}" if answer.cut else ""
    remark = "; ".join(filter(None, (redirects, cut)))
    if 200 <= answer.status < 300:
        return WebhookResult(
            Outcome(Status.SUCCEEDED, remark, output=result["body"], result=result)
        )
    message = f"{address} answered {request.status_text(answer.status)}"
    failed = Outcome(Status.FAILED, remark, output=result["body"], result=result, error=message)
    if answer.status in request.RETRYABLE_STATUSES and may_repeat:
        return WebhookResult(
            failed, True, request.retry_after(answer.headers.get("retry-after", ""), now)
        )
    return WebhookResult(failed)


def _result_without_answer(
    error: NoResponse, message: str, prepared: PreparedWebhook, *, idempotent: bool
) -> WebhookResult:
    result = _result_json(error.part, prepared, is_cut=True) if error.part else None
    output = result["body"] if result else None
    if error.sent and not idempotent:
        reason = f"{message}; the request was sent, so its effect is unknown"
        return WebhookResult(
            Outcome(Status.UNKNOWN, reason, output=output, result=result, error=message)
        )
    status = Status.TIMED_OUT if error.timed_out else Status.FAILED
    outcome = Outcome(status, error=message, output=output, result=result)
    return WebhookResult(outcome, temporary=not error.misconfigured)


def _result_json(answer: Response, prepared: PreparedWebhook, *, is_cut: bool) -> JsonObject:
    text = bodies.decode_text(answer.body, answer.headers)
    body = prepared.filled.hide(text, is_cut=is_cut)
    return {"status_code": answer.status, "body": body}
