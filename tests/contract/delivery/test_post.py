"""One try to send a callback to a real receiver, with secrets and tokens from a real Prefect."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from email.utils import format_datetime

import pytest
from prefect.client.orchestration import PrefectClient, get_client

from daybook.clock import SYSTEM_CLOCK
from daybook.delivery import destinations, home_secret
from daybook.delivery.callbacks import HOME_SECRET_NOTE, TOKEN_WITHHELD_NOTE, CallbackSender
from daybook.delivery.sending import DeliveryResult
from daybook.home import Home
from daybook.ledger.states import Delivery
from daybook.resources import secrets
from tests.at_prefect import add_document
from tests.receiver import Handler, Receiver, answer, cut, hang, redirect, serving
from tests.unit.delivery.rows import NEW, NOON, OLD, callback, signature

pytestmark = pytest.mark.anyio

TOKEN = "t0ken-of-the-receiver"
SECRETS = (TOKEN, "s3cr3t", NEW.removeprefix("whsec_"), OLD.removeprefix("whsec_"))


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with serving() as server:
        yield server


async def _send(
    client: PrefectClient,
    server: Receiver,
    step: Handler | None = None,
    now: datetime = NOON,
    **fields: object,
) -> DeliveryResult:
    if step is not None:
        server.steps = [step]
    row = callback(address=f"{server.address}/hook?token=s3cr3t", **fields)
    async with CallbackSender(client, lambda: now) as post:
        return await post.send(row)


@pytest.mark.floor("C", "A callback is a POST of the run as JSON")
async def test_a_callback_is_signed_with_the_homes_secret_by_default(
    client: PrefectClient, receiver: Receiver, daybook_home: Home
) -> None:
    tried = await _send(client, receiver)
    assert (tried.status, tried.status_code, tried.error) == (Delivery.DELIVERED, 200, "")
    assert (tried.next_at, tried.note) == (None, HOME_SECRET_NOTE)
    [request] = receiver.requests
    assert (request.method, request.path) == ("POST", "/hook?token=s3cr3t")
    assert request.body == callback().body.encode()
    secret = home_secret.default_secret(daybook_home, NOON)
    headers = request.headers
    made = signature(secret, headers["webhook-id"], headers["webhook-timestamp"], request.body)
    assert headers["webhook-signature"] == made
    assert headers["x-cronevent"] == "completed"
    assert "authorization" not in headers


@pytest.mark.slow
async def test_a_destination_adds_its_own_signatures_and_token(
    client: PrefectClient, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    await add_document(secrets.STORE, client, "ops-token", {"value": TOKEN, "hosts": ["127.0.0.1"]})
    await destinations.add(client, "ops", f"{receiver.address}/hook", secret=OLD, token="ops-token")
    new = await destinations.rotate(client, "ops", NOON)
    tried = await _send(client, receiver)
    assert (tried.status, tried.note) == (Delivery.DELIVERED, "")
    headers = receiver.requests[0].headers
    stamp, body = headers["webhook-timestamp"], receiver.requests[0].body
    both = [signature(each, headers["webhook-id"], stamp, body) for each in (new.secret, OLD)]
    assert headers["webhook-signature"].split() == both
    assert headers["authorization"] == f"Bearer {TOKEN}"
    text = caplog.text + repr(tried)
    assert not [each for each in (*SECRETS, new.secret) if each in text]


@pytest.mark.slow
async def test_a_token_is_sent_only_to_its_hosts(client: PrefectClient, receiver: Receiver) -> None:
    await add_document(
        secrets.STORE, client, "ops-token", {"value": TOKEN, "hosts": ["ops.example.org"]}
    )
    await destinations.add(client, "ops", receiver.address, token="ops-token")
    tried = await _send(client, receiver)
    assert tried.status is Delivery.PENDING
    assert "is not for 127.0.0.1" in tried.error
    assert receiver.requests == []


async def test_a_token_is_not_sent_over_plain_http(client: PrefectClient) -> None:
    await add_document(secrets.STORE, client, "ops-token", {"value": TOKEN, "hosts": ["8.8.8.8"]})
    await destinations.add(client, "ops", "http://8.8.8.8", token="ops-token", timeout=1)
    async with CallbackSender(client, lambda: NOON) as post:
        tried = await post.send(callback(address="http://8.8.8.8/hook"))
    assert tried.status is Delivery.FAILED
    assert "does not send a secret over plain http" in tried.error


@pytest.mark.parametrize(
    ("owner", "below"),
    [
        ("agent:writer", ""),
        ("agent:writer", "?x=1"),
        ("agent:writer", "/"),
        ("agent:writer", "/admin/users"),
        ("agent:writer", "/%2e"),
        ("user", "/admin/users?x=1"),
    ],
)
@pytest.mark.slow
async def test_an_agents_job_sends_the_token_only_to_the_destinations_exact_address(
    client: PrefectClient,
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
    owner: str,
    below: str,
) -> None:
    has_it = owner == "user" or not below
    monkeypatch.setenv("DAYBOOK_ALLOWED_HOSTS", "127.0.0.1")
    await add_document(secrets.STORE, client, "ops-token", {"value": TOKEN, "hosts": ["127.0.0.1"]})
    await destinations.add(client, "ops", f"{receiver.address}/hook", secret=OLD, token="ops-token")
    row = callback(address=f"{receiver.address}/hook{below}", owner=owner)
    async with CallbackSender(client, lambda: NOON) as post:
        tried = await post.send(row)
    assert (tried.status, tried.note) == (Delivery.DELIVERED, "" if has_it else TOKEN_WITHHELD_NOTE)
    [request] = receiver.requests
    assert request.headers.get("authorization") == (f"Bearer {TOKEN}" if has_it else None)
    made = signature(
        OLD, request.headers["webhook-id"], request.headers["webhook-timestamp"], request.body
    )
    assert request.headers["webhook-signature"] == made


@pytest.mark.slow
async def test_with_a_missing_token_nothing_is_sent(
    client: PrefectClient, receiver: Receiver
) -> None:
    await destinations.add(client, "ops", receiver.address, token="ops-token")
    tried = await _send(client, receiver)
    assert (tried.status, receiver.requests) == (Delivery.PENDING, [])
    assert 'unknown "ops-token"' in tried.error


@pytest.mark.floor("C", "Any 2xx means that the callback has arrived")
@pytest.mark.parametrize("status", [201, 204, 299])
async def test_any_2xx_status_means_delivered(
    client: PrefectClient, receiver: Receiver, status: int
) -> None:
    tried = await _send(client, receiver, answer(status, b""))
    assert (tried.status, tried.status_code) == (Delivery.DELIVERED, status)


@pytest.mark.parametrize("status", [400, 401, 404, 409, 422, 429, 500, 503])
@pytest.mark.slow
async def test_any_other_status_is_retried_later(
    client: PrefectClient, receiver: Receiver, status: int
) -> None:
    tried = await _send(client, receiver, answer(status, b"s3cr3t and more"))
    assert (tried.status, tried.status_code) == (Delivery.PENDING, status)
    assert tried.error.startswith(f"{receiver.address} answered {status}")
    assert "s3cr3t" not in tried.error and "hook" not in tried.error
    assert tried.next_at is not None and 5 <= (tried.next_at - NOON).total_seconds() <= 5.5


async def test_status_410_fails_without_a_retry(client: PrefectClient, receiver: Receiver) -> None:
    tried = await _send(client, receiver, answer(410))
    assert (tried.status, tried.status_code, tried.next_at) == (Delivery.FAILED, 410, None)


async def test_a_redirect_is_not_followed_and_counts_as_a_failed_try(
    client: PrefectClient, receiver: Receiver
) -> None:
    tried = await _send(client, receiver, redirect(f"{receiver.address}/there", 308))
    assert (tried.status, tried.status_code) == (Delivery.PENDING, 308)
    assert len(receiver.requests) == 1


@pytest.mark.parametrize("as_date", [False, True])
async def test_a_retry_after_header_sets_the_time_of_the_next_try(
    client: PrefectClient, receiver: Receiver, as_date: bool
) -> None:
    at = NOON + timedelta(seconds=90)
    retry_after = format_datetime(at, usegmt=True) if as_date else "90"
    tried = await _send(client, receiver, answer(429, b"", {"Retry-After": retry_after}))
    assert (tried.status, tried.next_at) == (Delivery.PENDING, at)


@pytest.mark.floor("C", "The number of tries of a callback can be set")
async def test_the_last_failed_try_of_the_destination_fails_the_delivery(
    client: PrefectClient, receiver: Receiver
) -> None:
    await destinations.add(client, "ops", receiver.address, tries=3)
    assert (await _send(client, receiver, answer(500), attempts=1)).status is Delivery.PENDING
    assert (await _send(client, receiver, answer(500), attempts=2)).status is Delivery.FAILED


async def test_a_refused_connection_is_a_failed_try(client: PrefectClient) -> None:
    async with serving() as server:
        pass
    tried = await _send(client, server)
    assert (tried.status, tried.status_code) == (Delivery.PENDING, None)
    assert "cannot be reached" in tried.error and "s3cr3t" not in tried.error


@pytest.mark.floor("C", "The timeout of a callback can be set")
async def test_a_hanging_receiver_fails_after_the_destinations_timeout(
    client: PrefectClient, receiver: Receiver
) -> None:
    await destinations.add(client, "ops", receiver.address, timeout=1)
    began = SYSTEM_CLOCK.now()
    tried = await _send(client, receiver, hang)
    assert (tried.status, tried.error) == (
        Delivery.PENDING,
        f"{receiver.address} did not answer within 1 s",
    )
    assert 1 <= (SYSTEM_CLOCK.now() - began).total_seconds() < 10
    assert 1 <= tried.seconds < 10


async def test_the_status_of_a_cut_response_decides_about_the_delivery(
    client: PrefectClient, receiver: Receiver
) -> None:
    assert (await _send(client, receiver, cut())).status is Delivery.DELIVERED
    assert (await _send(client, receiver, cut(status=500))).status_code == 500


async def test_an_agents_callback_reaches_public_addresses_only(
    client: PrefectClient, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    for owner, writer in (("agent:writer", "api"), ("user", "mcp"), ("user", "agent:writer")):
        tried = await _send(client, receiver, owner=owner, writer=writer)
        assert (tried.status, tried.next_at, receiver.requests) == (Delivery.FAILED, None, [])
    assert "public addresses only" in tried.error
    monkeypatch.setenv("DAYBOOK_ALLOWED_HOSTS", "127.0.0.1")
    assert (await _send(client, receiver, owner="agent:writer")).status is Delivery.DELIVERED


async def test_with_an_invalid_home_secret_nothing_is_sent(
    client: PrefectClient, receiver: Receiver, daybook_home: Home
) -> None:
    daybook_home.webhook_secret.write_text("s3cr3t")
    tried = await _send(client, receiver)
    assert (tried.status, receiver.requests) == (Delivery.PENDING, [])
    assert "holds no signing secret" in tried.error and "s3cr3t" not in tried.error


async def test_without_prefect_nothing_is_sent(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    import httpx

    async with get_client() as client:
        client._client.base_url = httpx.URL("http://127.0.0.1:1/api/")
        async with CallbackSender(client, SYSTEM_CLOCK.now) as post:
            with pytest.raises(httpx.HTTPError):
                await post.send(callback(address=receiver.address))
    assert receiver.requests == []


async def test_an_agents_callback_goes_only_to_the_hosts_in_its_limits(
    client: PrefectClient, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAYBOOK_ALLOWED_HOSTS", "127.0.0.1")
    monkeypatch.setenv("DAYBOOK_LIMITS", '{"hosts": ["*.example.org"]}')
    tried = await _send(client, receiver, owner="agent:writer")
    assert tried.status is Delivery.FAILED
    assert "the operator's limits do not list this host" in tried.error
    assert receiver.requests == []
    assert (await _send(client, receiver, owner="user")).status is Delivery.DELIVERED
    monkeypatch.setenv("DAYBOOK_LIMITS", '{"hosts": ["127.0.0.1"]}')
    assert (await _send(client, receiver, owner="agent:writer")).status is Delivery.DELIVERED


async def test_a_callback_that_needs_an_approval_is_not_sent(
    client: PrefectClient, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limits may be newer than the job, and a missed run had no claim that checked them."""
    monkeypatch.setenv("DAYBOOK_ALLOWED_HOSTS", "127.0.0.1")
    monkeypatch.setenv("DAYBOOK_LIMITS", '{"hosts": ["127.0.0.1"], "approve": ["webhook"]}')
    tried = await _send(client, receiver, owner="agent:writer")
    assert tried.status is not Delivery.DELIVERED and "needs an approval" in tried.error
    assert receiver.requests == []
