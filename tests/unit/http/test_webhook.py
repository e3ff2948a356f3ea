"""Webhooks: the request that is sent, and the outcome for each answer (promise 4)."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest

from daybook.errors import InvalidInput, OutgoingRefused
from daybook.execution import webhook
from daybook.execution.webhook import WebhookResult
from daybook.http import request
from daybook.http.guard import Guard, Rule
from daybook.http.httpx_transport import HttpxTransport
from daybook.http.secrets import Secret
from daybook.ledger.states import Status
from tests.receiver import (
    Handler,
    Receiver,
    Request,
    Wires,
    answer,
    cut,
    drip,
    hang,
    head,
    raw,
    redirect,
    serving,
)
from tests.unit.http.tricks import PUBLIC, Dns

pytestmark = pytest.mark.anyio

VALUE = "s3cr3t-of-the-api"
OCCURRENCE = "due:4f1c:2026-11-20T13:00:00Z"


@dataclass(frozen=True)
class Hook:
    url: str
    method: str = "POST"
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str | None = None


class OneSecret:
    async def read(self, name: str) -> Secret:
        return Secret(name, VALUE, ("127.0.0.1", "public.example"))


@pytest.fixture
async def server() -> AsyncIterator[Receiver]:
    async with serving() as server:
        yield server


async def _send(
    hook: Hook,
    *,
    rule: Rule = Rule.OPERATOR,
    occurrence: str = OCCURRENCE,
    timeout: float = 20,
    idempotent: bool = False,
    wires: Wires | None = None,
) -> WebhookResult:
    guard = Guard(rule, resolver=Dns({}, ((PUBLIC,),)))
    prepared = await webhook.prepare(hook, occurrence, guard, OneSecret())
    assert VALUE not in repr(prepared)
    transport = HttpxTransport(guard, backend=wires)
    return await webhook.send(prepared, transport, timeout=timeout, idempotent=idempotent)


@pytest.mark.floor("B", "A webhook's body is sent as JSON")
@pytest.mark.floor("B", "A webhook's own Content-Type is kept")
async def test_a_body_is_sent_as_json_unless_a_content_type_is_set(server: Receiver) -> None:
    sent = await _send(Hook(server.address, body='{"name": "grüß"}'))
    assert sent.outcome.status is Status.SUCCEEDED
    assert sent.outcome.result == {"status_code": 200, "body": "done"}
    assert sent.outcome.output == "done"
    assert (sent.outcome.reason, sent.outcome.error, sent.temporary) == ("", None, False)
    await _send(Hook(server.address, "PUT", {"content-type": "text/plain"}, "plain"))
    first, second = server.requests
    assert (first.method, first.headers["content-type"]) == ("POST", "application/json")
    assert json.loads(first.body) == {"name": "grüß"}
    assert (second.method, second.headers["content-type"]) == ("PUT", "text/plain")


async def test_a_payload_is_sent_as_data_in_the_body() -> None:
    hook = Hook("https://api.example.org/", body='{"text": "New: {{payload.title}}"}')
    payload = {"title": '", "admin": true, "x": "{{secret:ops}}'}
    guard = Guard(Rule.OPERATOR)
    prepared = await webhook.prepare(hook, OCCURRENCE, guard, OneSecret(), payload)
    assert json.loads(prepared.body) == {"text": f"New: {payload['title']}"}


@pytest.mark.parametrize(
    ("hook", "refusal"),
    [
        (Hook("https://api.example.org/", body='{"n": {{payload.n}}}'), "body: contains"),
        (Hook("https://api.example.org/", headers={"X-Name": "{{payload.n}}"}), "headers: "),
        (Hook("https://api.example.org/{{payload.n}}"), "url: contains"),
    ],
    ids=["body", "header", "url"],
)
def test_a_payload_is_refused_where_it_could_be_more_than_data(hook: Hook, refusal: str) -> None:
    with pytest.raises(InvalidInput, match=refusal):
        webhook.check_action(hook, Guard(Rule.OPERATOR))


@pytest.mark.floor("B", "A webhook without a body has no Content-Type")
@pytest.mark.parametrize("body", [None, ""])
async def test_without_a_body_there_is_no_content_type(server: Receiver, body: str | None) -> None:
    await _send(Hook(server.address, body=body))
    assert "content-type" not in server.requests[0].headers
    assert server.requests[0].body == b""


async def test_each_attempt_sends_the_same_idempotency_key(server: Receiver) -> None:
    for _ in range(2):
        await _send(Hook(server.address), occurrence="request:4f1c:a b%ü\r\n")
    keys = [request.headers["idempotency-key"] for request in server.requests]
    assert keys == ["request:4f1c:a%20b%25%C3%BC%0D%0A"] * 2


async def test_a_secret_that_the_answer_repeats_is_redacted_in_the_outcome(
    server: Receiver,
) -> None:
    async def echo(request: Request, writer: object) -> None:
        text = json.dumps(request.headers).encode()
        await answer(400, text)(request, writer)  # type: ignore[arg-type]

    server.steps = [echo]
    sent = await _send(Hook(server.address, headers={"Authorization": "Bearer {{secret:key}}"}))
    assert server.requests[0].headers["authorization"] == f"Bearer {VALUE}"
    assert "Bearer ********" in sent.outcome.result["body"]
    assert VALUE not in repr(sent)


async def test_a_webhook_sends_no_secret_over_plain_http_to_a_public_address(
    server: Receiver,
) -> None:
    wires = Wires({(PUBLIC, 80): server})
    hook = Hook("http://public.example/", headers={"X-Team": "{{secret:key}}"})
    with pytest.raises(OutgoingRefused, match="over plain http"):
        await _send(hook, wires=wires)
    assert server.requests == []
    await _send(Hook("http://public.example/", headers={"X-Team": "research"}), wires=wires)
    assert len(server.requests) == 1


async def test_an_untrusted_certificate_is_a_failure_that_is_not_retried(
    certified: tuple[ssl.SSLContext, Path],
) -> None:
    async with serving(certified[0]) as server:
        wires = Wires({(PUBLIC, 443): server})
        sent = await _send(Hook("https://public.example/"), wires=wires)
    assert (sent.outcome.status, sent.temporary) == (Status.FAILED, False)
    assert "certificate" in (sent.outcome.error or "")


@pytest.mark.floor("B", "A webhook succeeds with 2xx")
@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
async def test_2xx_is_success(server: Receiver, status: int) -> None:
    server.steps = [raw(head(status))]
    sent = await _send(Hook(server.address))
    assert sent.outcome.status is Status.SUCCEEDED
    assert sent.outcome.result == {"status_code": status, "body": ""}


@pytest.mark.floor("B", "A webhook fails with any other status")
@pytest.mark.parametrize("status", [300, 304, 400, 401, 404, 408, 409, 500, 502, 504, 599])
async def test_another_status_is_a_failure_with_the_body_of_the_answer(
    server: Receiver, status: int
) -> None:
    server.steps = [answer(status, b"the reason")]
    sent = await _send(Hook(f"{server.address}/hooks/seven?token=x"), idempotent=True)
    assert (sent.outcome.status, sent.temporary) == (Status.FAILED, False)
    assert (sent.outcome.error or "").startswith(f"{server.address}/hooks/seven answered")
    body = "" if status == 304 else "the reason"
    assert sent.outcome.result == {"status_code": status, "body": body}
    assert f"answered {status}" in (sent.outcome.error or "")


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("header", "seconds"), [("7", 7.0), ("", None), ("soon", None), ("-1", None), ("1.5", 1.5)]
)
async def test_status_429_or_503_is_temporary_with_its_retry_after(
    server: Receiver, status: int, header: str, seconds: float | None
) -> None:
    server.steps = [answer(status, b"busy", {"Retry-After": header} if header else {})]
    sent = await _send(Hook(server.address))
    assert (sent.outcome.status, sent.temporary, sent.retry_after) == (
        Status.FAILED,
        True,
        seconds,
    )
    assert sent.outcome.result == {"status_code": status, "body": "busy"}


@pytest.mark.parametrize(
    ("redirected", "idempotent", "temporary"),
    [(303, False, False), (303, True, True), (307, False, True)],
)
async def test_status_503_after_a_redirect_that_reports_an_effect_repeats_no_request(
    server: Receiver, redirected: int, idempotent: bool, temporary: bool
) -> None:
    server.steps = [redirect(server.address, redirected), answer(503, b"busy")]
    sent = await _send(Hook(server.address), idempotent=idempotent)
    assert (sent.outcome.status, sent.temporary) == (Status.FAILED, temporary)


def test_a_retry_after_is_a_number_or_a_date_and_anything_else_is_none() -> None:
    now = datetime(2026, 11, 20, 13, 0, tzinfo=UTC)
    for text, seconds in (
        ("0", 0),
        ("7", 7),
        (" 7 ", 7),
        ("6.5", 6.5),
        ("7.", 7),
        (".5", 0.5),
        ("86400", 86_400),
        ("9" * 400, float("inf")),
        ("Fri, 20 Nov 2026 13:02:00 GMT", 120),
        ("Friday, 20-Nov-26 13:02:00 GMT", 120),
        ("Fri Nov 20 13:02:00 2026", None),  # without a zone
        ("Fri, 20 Nov 2026 12:00:00 GMT", 0),
        ("Fri, 99 Nov 2026 12:00:00 GMT", None),
        ("-5", None),
        ("+5", None),
        ("1e3", None),
        ("nan", None),
        ("inf", None),
        ("٣", None),
        ("7s", None),
        ("1,5", None),
        ("soon", None),
        ("", None),
    ):
        assert request.retry_after(text, now) == seconds, text


@pytest.mark.parametrize("idempotent", [False, True])
async def test_a_refused_connection_is_temporary(idempotent: bool) -> None:
    async with serving() as server:
        pass
    sent = await _send(Hook(server.address), idempotent=idempotent)
    assert (sent.outcome.status, sent.temporary) == (Status.FAILED, True)
    assert "cannot be reached" in (sent.outcome.error or "")


@pytest.mark.parametrize(
    ("step", "timeout", "then"),
    [
        (hang, 0.5, Status.TIMED_OUT),
        (drip(head(200, {"Content-Length": "9999"})), 0.5, Status.TIMED_OUT),
        (raw(b""), 20, Status.FAILED),
        (cut(b"half", 200), 20, Status.FAILED),
    ],
    ids=["no answer", "a slow body", "no answer at all", "half a body"],
)
async def test_a_sent_request_without_an_answer_is_unknown_unless_it_is_idempotent(
    server: Receiver, step: Handler, timeout: float, then: Status
) -> None:
    server.steps = [step]
    sent = await _send(Hook(server.address), timeout=timeout)
    assert (sent.outcome.status, sent.temporary) == (Status.UNKNOWN, False)
    assert "so its effect is unknown" in sent.outcome.reason
    again = await _send(Hook(server.address), timeout=timeout, idempotent=True)
    assert (again.outcome.status, again.temporary) == (then, True)
    assert len({request.headers["idempotency-key"] for request in server.requests}) == 1


async def test_the_received_part_of_an_answer_is_kept(server: Receiver) -> None:
    server.steps = [cut(b"half", 200)]
    sent = await _send(Hook(server.address))
    assert sent.outcome.result == {"status_code": 200, "body": "half"}


@pytest.mark.parametrize(("status", "temporary"), [(500, False), (503, True), (404, False)])
async def test_a_failure_status_with_half_a_body_is_that_failure(
    server: Receiver, status: int, temporary: bool
) -> None:
    server.steps = [cut(b"half", status)]
    sent = await _send(Hook(server.address))
    assert (sent.outcome.status, sent.temporary) == (Status.FAILED, temporary)
    assert sent.outcome.result == {"status_code": status, "body": "half"}


async def test_a_redirect_that_drops_the_body_is_named_in_the_reason(server: Receiver) -> None:
    server.steps = [redirect("/new", 301), answer(200)]
    sent = await _send(Hook(server.address, body="{}"))
    assert sent.outcome.status is Status.SUCCEEDED
    assert sent.outcome.reason == f"redirected: 301 to {server.address}, sent as GET"


@pytest.mark.floor("B", "At most 1 MiB of a webhook's answer is kept")
async def test_a_long_answer_is_cut_and_the_reason_says_so(server: Receiver) -> None:
    server.steps = [answer(200, b"x" * (2**20 + 1))]
    sent = await _send(Hook(server.address))
    assert sent.outcome.status is Status.SUCCEEDED
    assert len(sent.outcome.result["body"]) == 2**20
    assert sent.outcome.reason == "cut: longer than the limit of 1,048,576 bytes"


async def test_an_answer_that_is_cut_within_a_secret_does_not_contain_its_start(
    server: Receiver,
) -> None:
    server.steps = [answer(200, b"x" * (2**20 - 8) + VALUE.encode())]
    sent = await _send(Hook(server.address, headers={"Authorization": "Bearer {{secret:key}}"}))
    assert sent.outcome.result["body"].strip("x") == "********"


async def test_an_answer_that_ends_within_a_secret_does_not_contain_its_start(
    server: Receiver,
) -> None:
    server.steps = [cut(f"you sent {VALUE[:8]}".encode(), 200)]
    sent = await _send(Hook(server.address, headers={"Authorization": "Bearer {{secret:key}}"}))
    assert sent.outcome.result["body"] == "you sent ********"


async def test_an_agents_webhook_cannot_reach_localhost(server: Receiver) -> None:
    with pytest.raises(OutgoingRefused, match="this host"):
        await _send(Hook(server.address), rule=Rule.AGENT)
    assert server.requests == []


@pytest.mark.parametrize(
    ("hook", "field", "words"),
    [
        (Hook("ftp://a.example/"), "url", "http://host"),
        (Hook("https://user:hush@a.example/"), "url", "{{secret:name}}"),
        (Hook("https://a.example/?key={{secret:key}}"), "url", "header"),
        (Hook("https://{{secret:key}}/"), "url", "header"),
        (Hook("https://a.example/", "FETCH"), "method", "use GET"),
        (Hook("https://a.example/", headers={"Authorization": "Bearer a"}), "headers", "{{secret"),
        (Hook("https://a.example/", headers={"X-A": "{{secret:}}"}), "headers", "misspelt"),
        (Hook("https://a.example/", headers={"idempotency-key": "1"}), "headers", "by Daybook"),
        (Hook("https://a.example/", headers={"Host": "b.example"}), "headers", "remove it"),
        (Hook("https://a.example/", headers={"X-A": "{{secret:key}}"}), "headers", "127.0.0.1"),
    ],
)
async def test_an_invalid_webhook_is_refused_before_the_run_begins(
    hook: Hook, field: str, words: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        await webhook.prepare(hook, OCCURRENCE, Guard(Rule.OPERATOR), OneSecret())
    assert refused.value.field == field
    assert words in str(refused.value)
    assert "hush" not in str(refused.value)
