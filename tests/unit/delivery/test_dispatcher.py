"""The dispatcher: what becomes of rows when it is stopped, and of a message without its link."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from daybook.delivery import channels, dispatcher, outbox, outgoing
from daybook.delivery.outbox import QueueKind
from daybook.delivery.sending import DeliveryResult
from daybook.errors import LedgerUnreachable
from daybook.ledger.states import Delivery
from daybook.ledger.tables import OutboxRow
from tests.unit.delivery.rows import callback
from tests.unit.delivery.test_sending import asked, row
from tests.world import World

pytestmark = pytest.mark.anyio


class Slow:
    """Sender whose first attempt ends only when it is allowed to, even if it is cancelled."""

    def __init__(self) -> None:
        self.sending: list[str] = []
        self.both, self.may_end = asyncio.Event(), asyncio.Event()

    async def send(self, row: OutboxRow) -> DeliveryResult:
        self.sending.append(row.lane)
        if len(self.sending) == 2:
            self.both.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if row.lane == outbox.queue_of_listener("slow"):
                await self.may_end.wait()
            raise
        raise AssertionError


async def test_one_attempt_that_does_not_end_keeps_no_other_row(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher, "SHUTDOWN_GRACE_SECONDS", 0.2)
    (slow,) = await asked(world, outbox.queue_of_listener("slow"))
    (quick,) = await asked(world, outbox.queue_of_listener("quick"))
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
        assert held.holder == "here"  # its lease expires
    finally:
        sender.may_end.set()


async def test_a_message_goes_without_its_link_if_the_ledger_is_unreachable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Away:
        def read(self) -> Any:
            raise LedgerUnreachable("no ledger", "away")

    urls: list[str | None] = []

    async def send(client: object, row: OutboxRow, url: str | None) -> None:
        urls.append(url)

    monkeypatch.setattr(channels, "send", send)
    monkeypatch.setattr(outgoing, "ui_address", lambda: "http://ui.example")
    sender = outgoing.ChannelSender(cast(Any, None), cast(Any, Away()))
    result = await sender.send(callback(lane="channel:inbox", purpose="message"))
    assert (result.status, urls) == (Delivery.DELIVERED, [None])
