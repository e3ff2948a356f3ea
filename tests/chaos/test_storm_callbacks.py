"""The storm's judge of callbacks finds each way in which they can be wrong."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from standardwebhooks import Webhook

from chaos import callbacks
from chaos.callbacks import HANGS, REFUSALS, Callbacks
from daybook.clock import SYSTEM_CLOCK
from daybook.ledger.tables import OutboxRow, RunRow

pytestmark = pytest.mark.anyio

NOW = datetime(2026, 1, 15, 12, 0, tzinfo=UTC)
RUN = "0" * 32


def a_run(status: str, **fields: Any) -> RunRow:
    given = {"occurrence": "due:job:12", "kind": "webhook", "trigger": "schedule", "due": NOW}
    delivery = "not_requested" if status == "skipped" else "delivered"
    told = {"id": RUN, "status": status, "queued_at": NOW, "delivery": delivery}
    return RunRow(**{**given, **told, **fields})


def a_row(message: str, **fields: Any) -> OutboxRow:
    given = {"key": f"run:{RUN}:{message}", "purpose": "callback", "event": "", "lane": ""}
    times = {"next_at": NOW, "created_at": NOW, "status": "delivered"}
    return OutboxRow(**{**given, **times, "id": message, "address": "", "body": "", **fields})


@dataclass
class Sender:
    """Sends what a Daybook would, and keeps the books that go with it."""

    to: Callbacks
    runs: list[RunRow] = field(default_factory=list)
    outbox: list[OutboxRow] = field(default_factory=list)

    async def send(
        self, status: str = "succeeded", event: str = "completed", message: str = "msg_1", **of: Any
    ) -> int:
        """One callback; the status code of the answer, 0 when there is none."""
        told = {"id": RUN, "status": status, "event": event, "corrects": None, **of}
        body, now = json.dumps(told), SYSTEM_CLOCK.now()
        path = "completed" if event == "completed" else "other"
        headers = {
            "webhook-id": message,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": f"v1a,other {Webhook(self.to.secret).sign(message, now, body)}",
            "X-CronEvent": event,
            "X-CronRun-ID": str(told["id"]),
        }
        async with httpx.AsyncClient(trust_env=False) as client:
            address = f"{self.to.address}/{path}/a-job"
            try:
                answer = await client.post(address, content=body, headers=headers)
            except httpx.RemoteProtocolError:
                return 0
        return answer.status_code

    def wrong(self) -> list[str]:
        return callbacks.wrong(self.to, self.runs, self.outbox)


@pytest.fixture
async def sender() -> AsyncIterator[Sender]:
    """A receiver that is well, and a run that succeeded, told as it is to be."""
    async with callbacks.had(random.Random(1)) as receiver:
        receiver.be_well()
        sender = Sender(receiver, [a_run("succeeded")], [a_row("msg_1")])
        assert await sender.send() == 204
        yield sender


async def test_what_is_right(sender: Sender) -> None:
    assert sender.wrong() == []
    await sender.send()  # once more
    sender.runs.append(a_run("skipped", id="1" * 32))
    sender.outbox.append(a_row("msg_2", purpose="alert"))
    assert sender.wrong() == []


async def test_an_unknown_run_is_corrected(sender: Sender) -> None:
    await sender.send("unknown", "failed", "msg_0")
    sender.outbox.append(a_row("msg_0"))
    (found,) = sender.wrong()
    assert found.startswith("callbacks of ['unknown'] as well, and not corrected")
    sender.to.calls = [each for each in sender.to.calls if each.id == "msg_0"]
    await sender.send(corrects="unknown")
    assert sender.wrong() == []


Spoil = Callable[[Sender], object]


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda s: s.to.calls.clear(), "no callback was taken"),
        (lambda s: s.to.calls.clear(), "delivered in the ledger, but never received"),
        (lambda s: s.runs.clear(), "a callback without a run in the ledger"),
        (lambda s: s.outbox.clear(), "came, and is not in the outbox"),
        (lambda s: setattr(s.outbox[0], "status", "failed"), "failed after 0 tries"),
        (lambda s: setattr(s.outbox[0], "status", "pending"), "pending after 0 tries"),
        (lambda s: setattr(s.runs[0], "delivery", "pending"), "its delivery is pending"),
        (lambda s: setattr(s.runs[0], "status", "skipped"), "a callback of what is no event"),
        (lambda s: setattr(s.runs[0], "status", "failed"), "no callback was taken"),
        (lambda s: s.to.calls[0].headers.pop("webhook-timestamp"), "it is not signed"),
        (lambda s: s.to.calls[0].headers.pop("x-cronevent"), "its headers say something else"),
    ],
)
async def test_what_is_wrong(sender: Sender, spoil: Spoil, why: str) -> None:
    spoil(sender)
    assert any(each.startswith(why) for each in sender.wrong()), sender.wrong()


async def test_a_second_id_is_wrong(sender: Sender) -> None:
    await sender.send(message="msg_2")
    sender.outbox.append(a_row("msg_2"))
    assert sender.wrong() == ["succeeded was told by 2 ids: due:job:12 succeeded"]


async def test_an_event_at_the_wrong_address_is_wrong(sender: Sender) -> None:
    sender.to.calls.clear()
    await sender.send(event="failed")
    told = [each.partition(":")[0] for each in sender.wrong()]
    assert told == ["failed is no event of succeeded"]


async def test_each_callback_is_refused_so_often_and_then_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(callbacks, "MOODS", {"answers 500": 1, "cuts the connection": 1})
    async with callbacks.had(random.Random(1)) as receiver:
        sender = Sender(receiver, [a_run("succeeded")], [a_row("msg_1")])
        answers = [await sender.send() for _ in range(REFUSALS + 2)]
        assert (answers[-2:], {204} & {*answers[:-2]}) == ([204, 204], set())
        assert sender.wrong() == []
        other = [await sender.send(message=f"msg_{number}") for number in range(2, 20)]
        assert set(other) == {0, 500}


async def test_who_hangs_answers_later_than_a_sender_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert HANGS > 15.0
    monkeypatch.setattr(callbacks, "HANGS", 0.01)
    monkeypatch.setattr(callbacks, "MOODS", {"hangs": 1})
    async with callbacks.had(random.Random(1)) as receiver:
        sender = Sender(receiver)
        assert await sender.send() == 0
        receiver.be_well()
        assert await sender.send() == 204
