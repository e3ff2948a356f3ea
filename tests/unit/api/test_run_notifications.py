"""Waiting for a run also waits briefly for its messages; and the recipients of a job."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from sqlmodel import select

from daybook.api import runs
from daybook.delivery import outbox, sending
from daybook.delivery.sending import DeliveryResult
from daybook.delivery.views import recipients
from daybook.home import Home
from daybook.jobs.notify import Notify
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Delivery
from daybook.ledger.tables import OutboxRow, QueueRow

pytestmark = pytest.mark.anyio

HOOK = "https://ops.example.org/hook"
RUN = "r" * 32


@pytest.fixture
async def ledger(daybook_home: Home) -> AsyncIterator[Ledger]:
    """Yield a ledger with a callback of a run that no process has tried to send."""
    async with Ledger(f"sqlite+aiosqlite:///{daybook_home.path}/ledger.db") as opened:
        now = opened.now()
        async with opened.write() as session:
            session.add(
                OutboxRow(
                    key="callback",
                    purpose=outbox.CALLBACK,
                    event="failed",
                    run_id=RUN,
                    queue=HOOK,
                    address=HOOK,
                    body="{}",
                    next_at=now,
                    created_at=now,
                )
            )
        yield opened


@pytest.mark.parametrize("to", [Delivery.DELIVERED, Delivery.PENDING])
async def test_waiting_ends_when_each_message_was_tried_once(ledger: Ledger, to: Delivery) -> None:
    waiting = asyncio.create_task(runs._tried(ledger, RUN))
    (row,) = await sending.claim(ledger, "test", most=1)
    assert not waiting.done()
    await sending.record(ledger, [DeliveryResult(row.id, row.fence, to, ledger.now(), 0.1)])
    async with asyncio.timeout(runs.DELIVERY_TIMEOUT_SECONDS - 1):
        await waiting


@pytest.mark.parametrize("held", ["not yet", "paused"])
async def test_a_message_that_cannot_be_sent_yet_is_not_awaited(ledger: Ledger, held: str) -> None:
    soon = ledger.now() + timedelta(hours=1)
    async with ledger.write() as session:
        if held == "paused":
            session.add(QueueRow(queue=HOOK, failures=5, since=ledger.now(), paused_until=soon))
        else:
            (row,) = (await session.execute(select(OutboxRow))).scalars()
            row.next_at = soon
            session.add(row)

    async with asyncio.timeout(runs.DELIVERY_TIMEOUT_SECONDS - 1):
        await runs._tried(ledger, RUN)


async def test_waiting_ends_at_its_timeout(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "DELIVERY_TIMEOUT_SECONDS", 0.01)
    await runs._tried(ledger, RUN)


async def test_a_run_without_messages_is_not_awaited(ledger: Ledger) -> None:
    async with asyncio.timeout(runs.DELIVERY_TIMEOUT_SECONDS - 1):
        await runs._tried(ledger, "another")


@pytest.mark.parametrize(
    ("notify", "expected"),
    [
        ({}, {"failed": ["me"]}),
        ({"channel": "team"}, {"completed": ["team"], "failed": ["team"]}),
        (
            {"channel": "team", "chat_id": "42", "events": ["completed", "missed"]},
            {"completed": ["team (chat 42)"], "failed": ["me"], "missed": ["team (chat 42)"]},
        ),
        (
            {"on_complete": f"{HOOK}?t=1", "on_fail": HOOK, "events": ["completed", "cancelled"]},
            {"completed": [HOOK], "failed": ["me"], "cancelled": [HOOK]},
        ),
        ({"channel": "team", "on_fail": HOOK, "silent": True}, {"failed": ["me"]}),
    ],
)
def test_recipients_are_listed_by_event(
    notify: dict[str, object], expected: dict[str, list[str]]
) -> None:
    assert recipients(Notify.model_validate(notify), "me") == expected
