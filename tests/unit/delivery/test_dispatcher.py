"""The dispatcher: the release of rows when it stops, and messages without a link."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import pytest
from anyio.lowlevel import checkpoint

from daybook.delivery import channels, dispatcher, outbox, outgoing, sending
from daybook.delivery.outbox import QueueKind
from daybook.delivery.sending import DeliveryResult
from daybook.errors import LedgerUnreachable
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Delivery
from daybook.ledger.tables import OutboxRow
from tests.unit.delivery.rows import callback
from tests.unit.delivery.test_sending import enqueue, row
from tests.world import World

pytestmark = pytest.mark.anyio


class Slow:
    """Sender whose first attempt ends only when it is allowed to, even if it is cancelled."""

    def __init__(self) -> None:
        self.sending: list[str] = []
        self.both, self.may_end = asyncio.Event(), asyncio.Event()

    async def send(self, row: OutboxRow) -> DeliveryResult:
        self.sending.append(row.queue)
        if len(self.sending) == 2:
            self.both.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if row.queue == outbox.queue_of_listener("slow"):
                await self.may_end.wait()
            raise
        raise AssertionError


async def test_a_stopped_dispatcher_releases_rows_although_one_send_does_not_end(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher, "SHUTDOWN_GRACE_SECONDS", 0.2)
    (slow,) = await enqueue(world, outbox.queue_of_listener("slow"))
    (quick,) = await enqueue(world, outbox.queue_of_listener("quick"))
    sender = Slow()
    task = asyncio.create_task(
        dispatcher.dispatch(world.ledger, "here", {QueueKind.LISTENER: sender})
    )
    async with asyncio.timeout(30):
        await sender.both.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    try:
        released, held = await row(world, quick), await row(world, slow)
        assert (released.status, released.holder) == (Delivery.PENDING, "")
        assert held.holder == "here"  # until its lease expires
    finally:
        sender.may_end.set()


async def test_a_message_to_a_channel_is_not_released_while_its_thread_sends_it(
    world: World,
) -> None:
    """A cancellation does not stop the thread, so a released message would be sent twice."""
    (sent,) = await enqueue(world, outbox.queue_of_channel("team"))
    begun, may_end = asyncio.Event(), asyncio.Event()

    class InThread:
        async def send(self, row: OutboxRow) -> DeliveryResult:
            begun.set()
            await may_end.wait()
            return DeliveryResult(row.id, row.fence, Delivery.DELIVERED, None, 0.0)

    task = asyncio.create_task(
        dispatcher.dispatch(world.ledger, "here", {QueueKind.CHANNEL: InThread()})
    )
    async with asyncio.timeout(30):
        await begun.wait()
        task.cancel()
        await checkpoint()
        may_end.set()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert (await row(world, sent)).status == Delivery.DELIVERED


async def test_a_failed_recording_does_not_discard_the_other_results(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    (first,) = await enqueue(world, outbox.queue_of_listener("first"))
    (second,) = await enqueue(world, outbox.queue_of_listener("second"))
    recorded = list[str]()
    is_recording, is_delivered = asyncio.Event(), asyncio.Event()
    record = sending.record

    class Sender:
        async def send(self, row: OutboxRow) -> DeliveryResult:
            if row.queue == outbox.queue_of_listener("second"):
                await is_recording.wait()
                is_delivered.set()
            return DeliveryResult(row.id, row.fence, Delivery.DELIVERED, None, 0.1)

    async def record_or_fail(ledger: Ledger, tried: Sequence[DeliveryResult]) -> None:
        recorded.extend(each.id for each in tried)
        if len(recorded) == 1:
            is_recording.set()
            await is_delivered.wait()
            raise LedgerUnreachable("no ledger", "away")
        await record(ledger, tried)

    monkeypatch.setattr(sending, "record", record_or_fail)
    with pytest.raises(LedgerUnreachable):
        await dispatcher.dispatch(world.ledger, "here", {QueueKind.LISTENER: Sender()})
    assert recorded == [first, second]
    assert (await row(world, second)).status == Delivery.DELIVERED
    assert (await row(world, first)).holder == "here"  # until its lease expires


async def test_a_message_is_sent_without_its_link_if_the_ledger_is_unreachable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class UnreachableLedger:
        def read(self) -> Any:
            raise LedgerUnreachable("no ledger", "away")

    urls: list[str | None] = []

    async def send(client: object, row: OutboxRow, url: str | None, *others: object) -> None:
        urls.append(url)

    monkeypatch.setattr(channels, "send", send)
    ledger = cast(Any, UnreachableLedger())
    sender = outgoing.ChannelSender(cast(Any, None), ledger, "http://ui.example")
    result = await sender.send(callback(queue="channel:inbox", purpose="message"))
    assert (result.status, urls) == (Delivery.DELIVERED, [None])
