"""Check of the chaos test's callbacks: it finds each kind of violation."""

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
from chaos.callbacks import HANG_SECONDS, MAX_REFUSALS, Receiver
from daybook.clock import SYSTEM_CLOCK
from daybook.ledger.tables import OutboxRow, RunRow

pytestmark = pytest.mark.anyio

NOW = datetime(2026, 1, 15, 12, 0, tzinfo=UTC)
RUN = "0" * 32


def a_run(status: str, **fields: Any) -> RunRow:
    given = {"occurrence": "due:job:12", "kind": "webhook", "trigger": "schedule", "due": NOW}
    delivery = "not_requested" if status == "skipped" else "delivered"
    outcome = {"id": RUN, "status": status, "queued_at": NOW, "delivery": delivery}
    return RunRow(**{**given, **outcome, **fields})


def a_row(message: str, **fields: Any) -> OutboxRow:
    given = {"key": f"run:{RUN}:{message}", "purpose": "callback", "event": "", "queue": ""}
    times = {"next_at": NOW, "created_at": NOW, "status": "delivered"}
    return OutboxRow(**{**given, **times, "id": message, "address": "", "body": "", **fields})


@dataclass
class Sender:
    """A sender of callbacks like Daybook's, with the ledger rows that belong to them."""

    to: Receiver
    runs: list[RunRow] = field(default_factory=list)
    outbox: list[OutboxRow] = field(default_factory=list)

    async def send(
        self, status: str = "succeeded", event: str = "completed", message: str = "msg_1", **of: Any
    ) -> int:
        """Send a callback; return the status code of the answer, or 0 if there is none."""
        run = {"id": RUN, "status": status, "event": event, "corrects": None, **of}
        body, now = json.dumps(run), SYSTEM_CLOCK.now()
        path = "completed" if event == "completed" else "other"
        headers = {
            "webhook-id": message,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": f"v1a,other {Webhook(self.to.secret).sign(message, now, body)}",
            "X-CronEvent": event,
            "X-CronRun-ID": str(run["id"]),
        }
        async with httpx.AsyncClient(trust_env=False) as client:
            address = f"{self.to.address}/{path}/a-job"
            try:
                answer = await client.post(address, content=body, headers=headers)
            except httpx.RemoteProtocolError:
                return 0
        return answer.status_code

    def violations(self) -> list[str]:
        return callbacks.violations(self.to, self.runs, self.outbox)


@pytest.fixture
async def sender() -> AsyncIterator[Sender]:
    """Yield a sender whose one run has succeeded, with a correct callback that was accepted."""
    async with callbacks.serve(random.Random(1)) as receiver:
        receiver.accept_all()
        sender = Sender(receiver, [a_run("succeeded")], [a_row("msg_1")])
        assert await sender.send() == 204
        yield sender


async def test_correct_callbacks_are_no_violation(sender: Sender) -> None:
    assert sender.violations() == []
    await sender.send()  # a repetition is allowed
    sender.runs.append(a_run("skipped", id="1" * 32))
    sender.outbox.append(a_row("msg_2", purpose="alert"))
    assert sender.violations() == []


async def test_a_callback_about_an_unknown_run_needs_a_correction(sender: Sender) -> None:
    await sender.send("unknown", "failed", "msg_0")
    sender.outbox.append(a_row("msg_0"))
    (found,) = sender.violations()
    assert found.startswith("also callbacks of ['unknown'], and not corrected")
    sender.to.callbacks = [each for each in sender.to.callbacks if each.id == "msg_0"]
    await sender.send(corrects="unknown")
    assert sender.violations() == []


Spoil = Callable[[Sender], object]


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda s: s.to.callbacks.clear(), "no callback was accepted"),
        (lambda s: s.to.callbacks.clear(), "delivered in the ledger, but never received"),
        (lambda s: s.runs.clear(), "a callback without a run in the ledger"),
        (lambda s: s.outbox.clear(), "received, but not in the outbox"),
        (lambda s: setattr(s.outbox[0], "status", "failed"), "failed after 0 tries"),
        (lambda s: setattr(s.outbox[0], "status", "pending"), "pending after 0 tries"),
        (lambda s: setattr(s.runs[0], "delivery", "pending"), "its delivery is pending"),
        (
            lambda s: setattr(s.runs[0], "status", "skipped"),
            "a callback about an outcome that is no event",
        ),
        (lambda s: setattr(s.runs[0], "status", "failed"), "no callback was accepted"),
        (lambda s: s.to.callbacks[0].headers.pop("webhook-timestamp"), "it is not signed"),
        (lambda s: s.to.callbacks[0].headers.pop("x-cronevent"), "its headers contradict"),
    ],
)
async def test_each_kind_of_violation_is_found(sender: Sender, spoil: Spoil, why: str) -> None:
    spoil(sender)
    assert any(each.startswith(why) for each in sender.violations()), sender.violations()


async def test_a_second_id_for_one_outcome_is_a_violation(sender: Sender) -> None:
    await sender.send(message="msg_2")
    sender.outbox.append(a_row("msg_2"))
    assert sender.violations() == ["succeeded was sent with 2 ids: due:job:12 succeeded"]


async def test_an_event_that_does_not_fit_its_outcome_is_a_violation(sender: Sender) -> None:
    sender.to.callbacks.clear()
    await sender.send(event="failed")
    problems = [each.partition(":")[0] for each in sender.violations()]
    assert problems == ["failed is not the event of succeeded"]


async def test_the_receiver_accepts_a_callback_after_at_most_max_refusals(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(callbacks, "BEHAVIOURS", {"answers 500": 1, "cuts the connection": 1})
    async with callbacks.serve(random.Random(1)) as receiver:
        sender = Sender(receiver, [a_run("succeeded")], [a_row("msg_1")])
        answers = [await sender.send() for _ in range(MAX_REFUSALS + 2)]
        assert (answers[-2:], {204} & {*answers[:-2]}) == ([204, 204], set())
        assert sender.violations() == []
        other = [await sender.send(message=f"msg_{number}") for number in range(2, 20)]
        assert set(other) == {0, 500}


async def test_a_hanging_receiver_hangs_longer_than_a_sender_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert HANG_SECONDS > 15.0
    monkeypatch.setattr(callbacks, "HANG_SECONDS", 0.01)
    monkeypatch.setattr(callbacks, "BEHAVIOURS", {"hangs": 1})
    async with callbacks.serve(random.Random(1)) as receiver:
        sender = Sender(receiver)
        assert await sender.send() == 0
        receiver.accept_all()
        assert await sender.send() == 204
