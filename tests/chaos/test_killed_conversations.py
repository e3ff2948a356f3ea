"""Kill -9 beside people who write in chats: of runs, workers, keepers, and of everything.

`chaos.conversations` kills and checks, in a process of its own that can fork an image. A failure
names its seed: `SEED=1 KILLS=100 python -m pytest tests/chaos/test_killed_conversations.py`.
"""

from __future__ import annotations

import asyncio
import os
import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from chaos.chats import Chats
from chaos.conversations import PLACES
from daybook.features.conversations.tables import UpdateRow
from daybook.ledger.tables import RunRow
from tests.bot_api import BotApi, Sent
from tests.chaos import chaos_process
from tests.databases import KINDS
from tests.timings import SHORT

SEED = int(os.environ.get("SEED", "62"))
KILLS = int(os.environ.get("KILLS", "100"))
MAX_SECONDS = 1_700
"""Four minutes on a machine with two free cores."""
TIMING = replace(
    SHORT,
    leader_lease=timedelta(seconds=4),
    leader_lease_renewal=timedelta(seconds=1),
    leader_check=timedelta(seconds=0.5),
    delivery_lease=timedelta(seconds=20),
)


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(MAX_SECONDS + 60)
@pytest.mark.parametrize("kind", KINDS)
def test_each_message_is_answered_once_in_its_chat_and_in_order(
    kind: str, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    if kind == "postgresql":
        request.getfixturevalue("postgresql")
    words = ("--kills", str(KILLS), "--seed", str(SEED), "--ledger", kind)
    printed = chaos_process.run(*words, seconds=MAX_SECONDS, variables=TIMING.environment())
    with capsys.disabled():
        print(f"\n{printed}")


# --- the check finds each kind of violation

NOON = datetime(2026, 1, 15, 12, 0, tzinfo=UTC)


class Answered:
    """Messages of four people, each with its update, its run and its answer, in order."""

    def __init__(self) -> None:
        self.chats = Chats(BotApi(), random.Random(1), PLACES, echoes=True)
        asyncio.run(self.chats.write_at([0.0] * 20))
        self.sent, self.recorded = self.chats.bot.sent, set[str]()
        self.updates, self.rows = list[UpdateRow](), list[RunRow]()
        for number, (id_, written) in enumerate(self.chats.written.items()):
            at = NOON + timedelta(seconds=number)
            run: dict[str, Any] = {"kind": "agent-prompt", "trigger": "session"}
            run |= {"status": "succeeded", "due": at, "queued_at": at}
            self.rows.append(RunRow(id=f"r{number}", occurrence=written.key, **run))
            update: dict[str, Any] = {"state": "done", "position": number, "channel": "telegram"}
            self.updates.append(UpdateRow(id=str(number), run_id=f"r{number}", **update))
            self.answer(id_, written.text)

    def answer(
        self, message_id: int, text: str, chat_id: str = "", *, is_recorded: bool = True
    ) -> None:
        chat_id = chat_id or self.chats.written[message_id].chat_id
        id_ = 5_000 + len(self.sent)
        self.sent.append(Sent(id_, chat_id, text, {}, message_id))
        if is_recorded:
            self.recorded.add(str(id_))

    @property
    def first(self) -> int:
        return next(iter(self.chats.written))

    @property
    def text(self) -> str:
        return self.chats.written[self.first].text

    def wrong(self) -> str:
        return "\n".join(self.chats.compare(self.updates, self.recorded, self.rows))


@pytest.fixture
def answered() -> Answered:
    return Answered()


def test_messages_that_are_answered_once_are_right(answered: Answered) -> None:
    assert {each.chat_id for each in answered.chats.written.values()} == {"1", "2", "-5"}
    assert answered.wrong() == ""


def test_a_lost_message_and_one_without_an_answer_are_found(answered: Answered) -> None:
    answered.rows.pop(0)
    assert "0 runs" in answered.wrong()
    answered.sent.pop(0)
    assert "is answered in []" in answered.wrong()
    answered.updates[3].state = "new"
    assert "not handled: 3" in answered.wrong()


def test_an_answer_in_two_chats_and_a_second_answer_are_found(answered: Answered) -> None:
    answered.answer(answered.first, answered.text, "7")
    assert "is answered in ['" in answered.wrong()
    answered.sent[-1].chat_id = answered.sent[0].chat_id
    assert "are known" in answered.wrong()
    answered.sent[-1].text = "Another answer"
    assert "has 2 answers" in answered.wrong()


def test_an_answer_may_come_again_only_if_the_first_copy_was_not_recorded(
    answered: Answered,
) -> None:
    answered.answer(answered.first, answered.text, is_recorded=False)
    assert "[True, False] are known" in answered.wrong()
    first, second = answered.sent[0], answered.sent[-1]
    answered.recorded -= {str(first.id)}
    answered.recorded |= {str(second.id)}
    assert answered.wrong() == ""
    answered.recorded -= {str(second.id)}
    assert "[False, False] are known" in answered.wrong()


def test_answers_in_another_order_are_found(answered: Answered) -> None:
    chats = [each.chat_id for each in answered.sent]
    later = chats.index(chats[0], 1)
    sent = answered.sent
    sent[0], sent[later] = sent[later], sent[0]
    assert "came too early" in answered.wrong()


def test_a_failed_run_shows_its_failure(answered: Answered) -> None:
    answered.rows[0].status = "unknown"
    assert "was unknown and is answered with 'chat-0'" in answered.wrong()
    answered.sent[0].text = "I could not answer: it was killed"
    assert answered.wrong() == ""
