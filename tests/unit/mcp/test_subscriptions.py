"""Subscriptions of MCP clients over HTTP to the wakes of their task sessions."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from datetime import datetime
from typing import Any, cast

import httpx2
import pytest
from anyio.lowlevel import checkpoint
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from mcp.shared.subscriptions import ResourceUpdated
from mcp_types import (
    EmptyResult,
    ResourceUpdatedNotification,
    SubscribeRequest,
    SubscribeRequestParams,
    SubscriptionFilter,
    SubscriptionsAcknowledgedNotification,
    SubscriptionsListenRequestParams,
    UnsubscribeRequestParams,
)

from daybook import settings
from daybook.api import tokens
from daybook.delivery import outbox
from daybook.features.tasks import operations, queue, resources, sessions
from daybook.features.tasks import wake_notifier as wakes
from daybook.features.tasks.tables import TaskSessionRow
from daybook.home import Home
from daybook.ledger.engine import Ledger
from daybook.ledger.tables import OutboxRow, QueueRow
from daybook.mcp import http
from daybook.mcp.resources import Clients
from daybook.operations import connections
from daybook.owners import Actor, acting_as
from tests.timings import change
from tests.unit.mcp.conftest import HEADERS, Served, served
from tests.waiting import becomes_true

BUSY = 60.0
"""Seconds that a busy machine may take."""
MODERN = "2026-07-28"


@pytest.fixture
async def ledger(daybook_home: Home) -> AsyncIterator[Ledger]:
    async with Ledger(settings.load().ledger_address) as ledger:
        yield ledger


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the intervals of polling and of renewing subscriptions."""
    monkeypatch.setattr(wakes, "POLL_INTERVAL_SECONDS", 0.05)
    change(monkeypatch, wakes, subscription_lease_renewal=0.1)


@asynccontextmanager
async def client(daybook_server: Served, token: str, mode: str = "auto") -> AsyncIterator[Client]:
    bearer = {"Authorization": f"Bearer {token}"}
    async with (
        httpx2.AsyncClient(headers=bearer, timeout=BUSY, trust_env=False) as wire,
        Client(streamable_http_client(daybook_server.url, http_client=wire), mode=mode) as found,
    ):
        yield found


async def registered(ledger: Ledger, owner: str, name: str) -> str:
    with acting_as(Actor(owner, via="mcp")):
        return (await sessions.register(ledger, name, capabilities=["python"])).id


async def woken(ledger: Ledger, session_id: str) -> str:
    """Add a wake to the outbox as a scheduler cycle does, and return the row's id."""
    now = ledger.now()
    async with ledger.write() as session:
        row = OutboxRow(
            key=f"wake:{session_id}:{now.isoformat()}",
            purpose=outbox.WAKE,
            event="task.wake",
            queue=outbox.queue_of_client(session_id),
            address="",
            next_at=now,
            created_at=now,
            body="{}",
        )
        session.add(row)
        return row.id


async def state(ledger: Ledger, row_id: str) -> str:
    async with ledger.read() as session:
        return (await session.get_one(OutboxRow, row_id)).status


def notifier_of(daybook_server: Served) -> wakes.WakeNotifier:
    (found,) = daybook_server.gate.resources._all
    assert isinstance(found, resources.SessionResources)
    return found._wakes


async def connected(ledger: Ledger, session_id: str) -> bool:
    async with ledger.read() as session:
        until = (await session.get_one(TaskSessionRow, session_id)).connected_until
    return until is not None and until > ledger.now()


async def test_a_subscription_gets_only_the_wakes_of_its_own_session(
    daybook_server: Served, token: str, ledger: Ledger, often: None
) -> None:
    hers, other = [await registered(ledger, "agent:cleo", each) for each in ("a b/c", "d")]
    uri = resources.session_uri("a b/c")
    async with client(daybook_server, token) as cleo:
        assert cleo.protocol_version == MODERN
        assert [each.uri for each in (await cleo.list_resources()).resources] == [
            "daybook://task-sessions/a%20b%2Fc",
            "daybook://task-sessions/d",
        ]
        assert not await connected(ledger, hers)
        async with cleo.listen(resource_subscriptions=[uri], tools_list_changed=True) as stream:
            assert stream.honored.resource_subscriptions == [uri]
            assert stream.honored.tools_list_changed is None
            assert await connected(ledger, hers)
            assert not await connected(ledger, other)
            left, wake = await woken(ledger, other), await woken(ledger, hers)
            async with asyncio.timeout(BUSY):
                assert await anext(stream) == ResourceUpdated(uri)

            async def delivered() -> bool:
                return await state(ledger, wake) == "delivered"

            assert await becomes_true(delivered, BUSY)
            assert await state(ledger, left) == "pending"

        async def is_disconnected() -> bool:
            return not await connected(ledger, hers)

        assert await becomes_true(is_disconnected, BUSY)
    async with ledger.read() as session:
        assert await session.get(QueueRow, outbox.queue_of_client(hers)) is None


async def test_the_resource_of_a_session_has_its_state_its_run_and_no_token(
    daybook_server: Served, token: str, ledger: Ledger
) -> None:
    await registered(ledger, "agent:cleo", "hers")
    async with client(daybook_server, token) as cleo:

        async def read() -> dict[str, object]:
            (found,) = (await cleo.read_resource(resources.session_uri("hers"))).contents
            return dict(json.loads(found.text))  # type: ignore[union-attr]

        before = await read()
        assert (before["state"], before["run_id"], before["something_waits"]) == (
            "idle",
            None,
            False,
        )
        await queue.add(ledger, "Fix it", capabilities=["python"])
        assert (await read())["something_waits"] is True
        from daybook.features.tasks import claims

        claimed = await claims.claim(ledger, "hers")
        (found,) = (await cleo.read_resource(resources.session_uri("hers"))).contents
        after = await read()
        assert (after["run_id"], after["something_waits"]) == (claimed.run.id, False)
        assert claimed.token not in str(found)


async def test_a_session_of_another_owner_cannot_be_read_or_subscribed_to(
    daybook_server: Served, token: str, ledger: Ledger
) -> None:
    noras = await registered(ledger, "agent:nora", "noras")
    uri = resources.session_uri("noras")
    async with client(daybook_server, token) as cleo:
        assert (await cleo.list_resources()).resources == []
        with pytest.raises(MCPError, match="there is no resource"):
            await cleo.read_resource(uri)
        for each in (uri, resources.session_uri("nobody"), "file:///etc/passwd"):
            with pytest.raises(MCPError, match="there is no resource"):
                async with cleo.listen(resource_subscriptions=[each]):
                    pass
    operator = (await tokens.add("user")).token
    async with client(daybook_server, operator) as user:
        assert [each.name for each in (await user.list_resources()).resources] == ["noras"]
        with pytest.raises(MCPError, match="'noras' belongs to agent:nora"):
            async with user.listen(resource_subscriptions=[uri]):
                pass
    assert not await connected(ledger, noras)


async def test_a_legacy_client_over_http_cannot_subscribe(
    daybook_server: Served, token: str, ledger: Ledger
) -> None:
    await registered(ledger, "agent:cleo", "hers")
    async with client(daybook_server, token, "legacy") as cleo:
        assert [each.name for each in (await cleo.list_resources()).resources] == ["hers"]
        assert cleo.server_capabilities.resources is not None
        assert not cleo.server_capabilities.resources.subscribe
        with pytest.raises(MCPError, match="Method not found"):
            params = SubscribeRequestParams(uri=resources.session_uri("hers"))
            await cleo.session.send_request(SubscribeRequest(params=params), EmptyResult)


@pytest.mark.parametrize("why", ["token", "session"])
async def test_a_stream_ends_if_its_token_or_session_is_removed(
    daybook_server: Served, token: str, ledger: Ledger, often: None, why: str
) -> None:
    await registered(ledger, "agent:cleo", "hers")
    async with (
        client(daybook_server, token) as cleo,
        cleo.listen(resource_subscriptions=[resources.session_uri("hers")]) as stream,
    ):
        if why == "token":
            await tokens.remove("agent:cleo")
        else:
            await sessions.remove(ledger, "hers")
        async with asyncio.timeout(BUSY):
            assert [each async for each in stream] == []


async def test_an_open_stream_renews_the_connection_of_its_session(
    daybook_server: Served, token: str, ledger: Ledger, often: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(monkeypatch, wakes, subscription_lease=3600)
    id_ = await registered(ledger, "agent:cleo", "hers")

    async def until() -> TaskSessionRow:
        async with ledger.read() as session:
            return await session.get_one(TaskSessionRow, id_)

    async with (
        client(daybook_server, token) as cleo,
        cleo.listen(resource_subscriptions=[resources.session_uri("hers")]),
    ):
        first = await until()

        async def later() -> bool:
            row = await until()
            assert row.connected_until is not None
            assert first.connected_until is not None
            is_renewed = row.expires_at > first.expires_at
            return row.connected_until > first.connected_until and is_renewed

        assert await becomes_true(later, BUSY)


async def test_streams_are_limited_block_no_requests_and_end_with_the_server(
    daybook_home: Home, token: str, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "MAX_STREAMS", 1)
    await registered(ledger, "agent:cleo", "hers")
    uri = resources.session_uri("hers")
    async with (
        served() as daybook_server,
        client(daybook_server, token) as cleo,
        cleo.listen(resource_subscriptions=[uri]) as stream,
    ):
        with pytest.raises(MCPError, match="the maximum of 1 clients is reached; call task_next"):
            async with cleo.listen(resource_subscriptions=[uri]):
                pass
        assert (await daybook_server.post(token)).status_code == 200
        daybook_server.server.should_exit = True
        async with asyncio.timeout(BUSY):
            assert [each async for each in stream] == []


async def test_each_owner_has_a_limit_of_open_streams(
    daybook_home: Home, token: str, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "MAX_STREAMS", 3)
    monkeypatch.setattr(http, "MAX_STREAMS_PER_OWNER", 2)
    await registered(ledger, "agent:cleo", "hers")
    await registered(ledger, "agent:nora", "noras")
    noras = (await tokens.add("agent:nora")).token
    uri = resources.session_uri("hers")
    async with (
        served() as daybook_server,
        client(daybook_server, token) as cleo,
        client(daybook_server, noras) as nora,
        cleo.listen(resource_subscriptions=[uri]),
        cleo.listen(resource_subscriptions=[uri]),
    ):
        with pytest.raises(MCPError, match="agent:cleo already has 2 open streams"):
            async with cleo.listen(resource_subscriptions=[uri]):
                pass
        async with nora.listen(resource_subscriptions=[resources.session_uri("noras")]) as stream:
            assert stream.honored.resource_subscriptions == [resources.session_uri("noras")]


async def test_a_stream_needs_at_least_one_and_at_most_20_resources(
    daybook_server: Served, token: str, ledger: Ledger
) -> None:
    notifier = notifier_of(daybook_server)
    names = [f"s{number}" for number in range(resources.MAX_URIS + 1)]
    for each in names:
        await registered(ledger, "agent:cleo", each)
    uris = [resources.session_uri(each) for each in names]
    async with client(daybook_server, token) as cleo:
        with pytest.raises(MCPError, match="the resource of one of your sessions"):
            async with cleo.listen(tools_list_changed=True, resources_list_changed=True):
                pass
        with pytest.raises(MCPError, match="at most 20 resources"):
            async with cleo.listen(resource_subscriptions=uris):
                pass
        assert notifier._held == []
        async with cleo.listen(resource_subscriptions=uris[1:]) as stream:
            assert stream.honored.resource_subscriptions == uris[1:]


@pytest.mark.usefixtures("often")
async def test_a_client_that_does_not_read_its_wakes_delays_no_other_client(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wakes, "NOTIFY_TIMEOUT_SECONDS", 2 * BUSY)
    asked, takes, messages = asyncio.Event(), asyncio.Event(), asyncio.Queue[str]()

    async def slow(_: str) -> None:
        asked.set()
        await takes.wait()

    async def always() -> bool:
        return True

    ids = [await registered(ledger, "agent:cleo", each) for each in ("slow", "quick")]
    of = [
        wakes.Subscription(Actor("agent:cleo", via="mcp"), {id_: name}, tell, always, lambda: None)
        for id_, name, tell in zip(ids, ("slow", "quick"), (slow, messages.put), strict=True)
    ]
    notifier = wakes.WakeNotifier(lambda: nullcontext(ledger), 5, 5)
    async with notifier.holding(of[0]), notifier.holding(of[1]), asyncio.timeout(BUSY):
        unread = await woken(ledger, ids[0])
        await asked.wait()
        for _ in range(2):
            row = await woken(ledger, ids[1])
            assert await messages.get() == "quick"

            async def delivered(row: str = row) -> bool:
                return await state(ledger, row) == "delivered"

            assert await becomes_true(delivered, BUSY)

        async def until() -> datetime:
            async with ledger.read() as session:
                found = (await session.get_one(TaskSessionRow, ids[1])).connected_until
            assert found is not None
            return found

        before = await until()

        async def renewed() -> bool:
            return await until() > before

        assert await becomes_true(renewed, BUSY)
        assert await state(ledger, unread) == "pending"
        takes.set()

        async def taken() -> bool:
            return await state(ledger, unread) == "delivered"

        assert await becomes_true(taken, BUSY)

    async def over() -> bool:
        return not notifier._at_work

    assert await becomes_true(over, BUSY)


@pytest.mark.parametrize("mode", ["legacy", MODERN])
async def test_a_cancelled_task_next_claims_no_run(
    daybook_server: Served, token: str, ledger: Ledger, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, ended, until = asyncio.Event(), asyncio.Event(), operations.wait_until_claimable

    async def watched(name: str, seconds: float, priority_min: str) -> bool:
        began.set()
        try:
            return await until(name, seconds, priority_min)
        finally:
            ended.set()

    monkeypatch.setattr(operations, "wait_until_claimable", watched)
    await registered(ledger, "agent:cleo", "hers")
    async with client(daybook_server, token) as cleo:
        given = {"session": "hers", "wait_seconds": 25}

        async def ask() -> object:
            if mode == MODERN:
                return await cleo.call_tool("task_next", given)
            return await daybook_server.call(token, "task_next", **given)

        asking = asyncio.create_task(ask())
        async with asyncio.timeout(BUSY):
            await began.wait()
        asking.cancel()
        async with asyncio.timeout(20):  # less than wait_seconds
            await ended.wait()
        await queue.add(ledger, "Fix it")
        assert (await daybook_server.call(token, "task_next", session="hers")).startswith(
            "Claimed. "
        )


@pytest.mark.parametrize(
    "turns",
    [
        pytest.param(0, id="more than lies before it"),
        pytest.param(20, id="until it is stuck", marks=pytest.mark.slow),
    ],
)
@pytest.mark.usefixtures("often")
async def test_a_client_that_does_not_read_is_disconnected(
    token: str, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, turns: int
) -> None:
    monkeypatch.setattr(connections.SlowClientProtocol, "unread", 0.5)
    name = "€" * 100  # nine characters of the URI each
    id_ = await registered(ledger, "agent:cleo", name)
    asked = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "subscriptions/listen",
        "params": {
            "notifications": {"resourceSubscriptions": [resources.session_uri(name)]},
            "_meta": {
                "io.modelcontextprotocol/protocolVersion": MODERN,
                "io.modelcontextprotocol/clientCapabilities": {},
            },
        },
    }
    body = json.dumps(asked).encode()
    headers = HEADERS | {
        "host": "127.0.0.1",
        "authorization": f"Bearer {token}",
        "content-length": str(len(body)),
        "mcp-protocol-version": MODERN,
        "mcp-method": "subscriptions/listen",
    }
    lines = [f"POST {http.PATH} HTTP/1.1", *(f"{name}: {headers[name]}" for name in headers)]
    async with served() as daybook_server:
        at = httpx2.URL(daybook_server.url)
        wire = socket.create_connection((at.host, at.port))
        reader, writer = await asyncio.open_connection(sock=wire, limit=1_000)
        writer.write("".join(f"{line}\r\n" for line in [*lines, ""]).encode() + body)
        assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200")
        notifier = notifier_of(daybook_server)
        (held,) = notifier._held

        async def is_disconnected() -> bool:
            for _ in range(500):
                await held.notify(resources.session_uri(name))
                for _ in range(turns):  # turns of the event loop, in which it is sent
                    await checkpoint()
            return held not in notifier._held and not await connected(ledger, id_)

        assert await becomes_true(is_disconnected, BUSY)
        writer.close()


async def test_a_session_stays_connected_while_one_of_its_two_streams_is_open(
    daybook_server: Served, token: str, ledger: Ledger
) -> None:
    id_ = await registered(ledger, "agent:cleo", "hers")
    uri, held = resources.session_uri("hers"), notifier_of(daybook_server)._held
    async with client(daybook_server, token) as one, one.listen(resource_subscriptions=[uri]):
        async with client(daybook_server, token) as two, two.listen(resource_subscriptions=[uri]):
            assert len(held) == 2

        async def is_notified() -> bool:  # whether the server noticed that the second client left
            written = not notifier_of(daybook_server)._writes.locked()
            return len(held) == 1 and written and sum(daybook_server.gate.owners.values()) == 1

        assert await becomes_true(is_notified, BUSY)
        assert await connected(ledger, id_)


@pytest.mark.usefixtures("often")
async def test_a_session_stays_connected_while_another_server_process_has_a_stream_of_it(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Not by a renewal in time, which comes only after seconds in which no wake is possible.
    change(monkeypatch, wakes, subscription_lease=7200, subscription_lease_renewal=3000)
    id_ = await registered(ledger, "agent:cleo", "hers")

    async def unused(*_: object) -> Any:
        raise AssertionError

    def subscription() -> wakes.Subscription:
        actor = Actor("agent:cleo", via="mcp")
        return wakes.Subscription(actor, {id_: "uri"}, unused, unused, lambda: None)

    one, two = [wakes.WakeNotifier(lambda: nullcontext(ledger), 5, 5) for _ in range(2)]
    async with one.holding(subscription()):
        async with two.holding(subscription()):
            pass

        async def is_connected() -> bool:
            return await connected(ledger, id_)

        assert await becomes_true(is_connected, BUSY)

    async def over() -> bool:
        return not one._at_work and not two._at_work

    assert await becomes_true(over, BUSY)
    assert not await connected(ledger, id_)


class Pipe:
    """Connection of one client, with the notifications that were sent to it."""

    def __init__(self) -> None:
        self.request_id, self.session = 1, self
        self.sent = asyncio.Queue[object]()

    async def send_notification(self, notification: object, **_: object) -> None:
        await self.sent.put(notification)

    async def send_resource_updated(self, uri: str) -> None:
        raise AssertionError


def session_resources(notifier: Any) -> resources.SessionResources:
    clients = Clients(lambda _: Actor("agent:cleo", via="mcp"), cast(Any, None), 5, 5)
    return resources.SessionResources(clients, notifier)


async def test_concurrent_requests_of_a_pipe_leave_one_subscription_or_none(
    ledger: Ledger,
) -> None:
    await registered(ledger, "agent:cleo", "hers")
    notifier, pipe = wakes.WakeNotifier(lambda: nullcontext(ledger), 5, 5), cast(Any, Pipe())
    of_hers, uri = session_resources(notifier), resources.session_uri("hers")
    subscribe = SubscribeRequestParams(uri=uri)
    await asyncio.gather(*(of_hers.subscribe(pipe, subscribe) for _ in range(3)))
    assert len(notifier._held) == 1
    await asyncio.gather(
        of_hers.unsubscribe(pipe, UnsubscribeRequestParams(uri=uri)),
        of_hers.subscribe(pipe, subscribe),
        of_hers.unsubscribe(pipe, UnsubscribeRequestParams(uri=uri)),
    )
    assert notifier._held == []


async def test_a_wake_that_is_sent_before_the_stream_opens_reaches_it(ledger: Ledger) -> None:
    await registered(ledger, "agent:cleo", "hers")
    uri, pipe = resources.session_uri("hers"), Pipe()
    waking: list[asyncio.Task[None]] = []

    class EarlyNotifier:
        @asynccontextmanager
        async def holding(self, held: wakes.Subscription) -> AsyncIterator[None]:
            waking.append(asyncio.create_task(cast(Any, held.notify(uri))))
            for _ in range(5):
                await checkpoint()
            yield

    asked = SubscriptionsListenRequestParams(
        notifications=SubscriptionFilter(resource_subscriptions=[uri])
    )
    listen = session_resources(EarlyNotifier()).listen(cast(Any, pipe), asked)
    listening = asyncio.create_task(listen)
    async with asyncio.timeout(BUSY):
        assert isinstance(await pipe.sent.get(), SubscriptionsAcknowledgedNotification)
        assert isinstance(await pipe.sent.get(), ResourceUpdatedNotification)
        await asyncio.wait(waking)
    listening.cancel()
    await asyncio.wait({listening})
