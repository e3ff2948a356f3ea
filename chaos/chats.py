"""People in chats in the chaos test: each message is answered exactly once, or shown as failed.

People write to a Telegram bot, whose API is a local server. In the chaos test it delivers updates
again and in another order, answers 429 and 502, and sometimes sends a message but answers 502.
Beside kills alone (`chaos.conversations`), it delivers no update again that was confirmed. Only the
leading keeper hears them.

Telegram has no key for a message. So an answer may arrive again if its sender was killed before it
had recorded the first copy: of the copies of an answer, the ledger knows only the last one.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise
from typing import NamedTuple

from sqlmodel import col, select
from starlette.responses import Response

from chaos.workload import STEPPING_AGENT
from daybook.clock import SYSTEM_CLOCK
from daybook.features.conversations import operations, store
from daybook.features.conversations.tables import SentRow, UpdateRow
from daybook.ledger.engine import Ledger
from daybook.ledger.tables import RunRow
from daybook.runs.claim_requests import session_request_key
from tests import bot_api
from tests.bot_api import TOKEN, BotApi, Sent

CHANNEL = "telegram"
INTERVAL = timedelta(seconds=8)
MAX_WAIT = timedelta(seconds=60)
_FAULTS = {"getUpdates": 0.10, "sendMessage": 0.15, "sendChatAction": 0.3}
"""Share of the requests that fail, by method."""
_SENT_ANYWAY = 0.3
"""Share of the failed messages that were sent nevertheless."""


class Place(NamedTuple):
    """A person, and the group in which the person writes; None for the private chat."""

    person: int
    group: int | None = None

    @property
    def chat_id(self) -> str:
        return str(self.group or self.person)


PRIVATE = (Place(1), Place(2))


class Written(NamedTuple):
    """A message of a person: its chat, and the occurrence key of the run that answers it."""

    chat_id: str
    text: str
    key: str


@dataclass
class Chats:
    """What people have written at these ``places``, by the id of the message.

    The answer of an agent that ``echoes`` is the message.
    """

    bot: BotApi
    dice: random.Random
    places: Sequence[Place] = PRIVATE
    echoes: bool = False
    written: dict[int, Written] = field(default_factory=dict)
    keys: set[str] = field(default_factory=set)

    async def connect(self, agent: str = STEPPING_AGENT) -> None:
        """Connect the bot as a channel, and let all people write a code."""
        settings = {"token": TOKEN, "api_url": self.bot.address, "agent": agent}
        code = (await operations.connect("telegram", CHANNEL, settings)).code.code
        for each in self.places:
            self.bot.write(code, person=each.person)
            code = (await operations.make_code(CHANNEL)).code

    async def write(self, end: datetime, slower: float = 1.0) -> None:
        """Write a message each ``slower * INTERVAL`` until ``end``, while the bot's API fails."""
        self.bot.redelivers = True
        self.bot.disturb = self._disturb
        while SYSTEM_CLOCK.now() < end:
            self._write_next()
            await SYSTEM_CLOCK.wait_until(SYSTEM_CLOCK.now() + slower * INTERVAL)
        self.bot.disturb = None

    async def write_at(self, moments: Sequence[float]) -> None:
        """Write a message at each moment, in seconds from now."""
        start = SYSTEM_CLOCK.now()
        for moment in sorted(moments):
            await SYSTEM_CLOCK.wait_until(start + timedelta(seconds=moment))
            self._write_next()

    def _write_next(self) -> None:
        place, text = self.dice.choice(self.places), f"chat-{len(self.written)}"
        update_id = f"{TOKEN.partition(':')[0]}-{self.bot.next_update}"
        key = session_request_key(store.answer_key(CHANNEL, update_id))
        mention = "@daybook_bot " if place.group else ""
        message_id = self.bot.write(mention + text, person=place.person, chat=place.group)
        self.written[message_id] = Written(place.chat_id, text, key)
        self.keys.add(key)

    def _disturb(self, method: str) -> tuple[bool, Response] | None:
        if self.dice.random() >= _FAULTS.get(method, 0.0):
            return None
        response = self.dice.choice([bot_api.bad_gateway, bot_api.too_many(1)])()
        return self.dice.random() < _SENT_ANYWAY and response.status_code == 502, response

    async def wait_until_finished(self, ledger: Ledger) -> None:
        """Wait until the keeper has seen the ends of all runs, for at most `MAX_WAIT`."""
        end = SYSTEM_CLOCK.now() + MAX_WAIT
        while SYSTEM_CLOCK.now() < end and await _unfinished(ledger):
            await SYSTEM_CLOCK.wait_until(SYSTEM_CLOCK.now() + timedelta(seconds=1))

    async def violations(self, ledger: Ledger, rows: Sequence[RunRow]) -> list[str]:
        """Return what is wrong with the answers, and with the rows of the updates."""
        async with ledger.read() as session:
            updates = (await session.execute(select(UpdateRow))).scalars().all()
            recorded = (await session.execute(select(SentRow))).scalars().all()
        return self.compare(updates, {each.message_id for each in recorded}, rows)

    def compare(
        self, updates: Sequence[UpdateRow], recorded: Collection[str], rows: Sequence[RunRow]
    ) -> list[str]:
        """Return what is wrong; ``recorded`` are the ids of the messages that the ledger knows."""
        wrong = [f"not handled: {each.id}" for each in updates if each.state != "done"]
        count = Counter(row.occurrence for row in rows)
        wrong += [f"{count[key]} runs: {key}" for key in sorted(self.keys) if count[key] != 1]
        wrong += self._wrong_answers({row.occurrence: row for row in rows})
        if self.echoes:  # the service has not failed
            wrong += self._wrong_order()
            wrong += self._sent_again(recorded)
        queued = {row.id: row.queued_at for row in rows}
        with_run = (each for each in updates if each.run_id in queued)
        for before, after in pairwise(sorted(with_run, key=lambda each: each.position)):
            if queued[str(before.run_id)] > queued[str(after.run_id)]:
                wrong.append(f"update {after.id} was handled before update {before.id}")
        return wrong

    @property
    def answers(self) -> dict[int, list[Sent]]:
        """Return the answers to each message, in the order in which they arrived."""
        found = defaultdict[int, list[Sent]](list)
        for each in self.bot.sent:
            if each.reply_to in self.written:
                found[each.reply_to].append(each)
        return found

    def _wrong_answers(self, rows: dict[str, RunRow]) -> list[str]:
        wrong, answers = list[str](), self.answers
        for message_id, written in self.written.items():
            found, name = answers.get(message_id, []), f"message {message_id}"
            if {each.chat_id for each in found} != {written.chat_id}:
                chats = sorted({each.chat_id for each in found})
                wrong.append(f"{name} of chat {written.chat_id} is answered in {chats}")
            texts = list(dict.fromkeys(each.plain for each in found))
            row = rows.get(written.key)
            if row is None or not found or not self.echoes:
                continue
            if (texts[-1] == written.text) != (row.status == "succeeded"):
                wrong.append(f"{name} was {row.status} and is answered with {texts[-1]!r}")
            # A late outcome corrects an unknown one, which was answered before.
            if len(texts) > 2 or written.text in texts[:-1]:
                wrong.append(f"{name} has {len(texts)} answers: {texts}")
        return wrong

    def _wrong_order(self) -> list[str]:
        """Return the messages whose answer arrived before that of an earlier one in the chat."""
        wrong, last = list[str](), dict[str, int]()
        first = {each.reply_to: number for number, each in reversed([*enumerate(self.bot.sent)])}
        for message_id, written in self.written.items():
            if (arrived := first.get(message_id)) is None:
                continue  # reported as not answered
            if arrived < last.get(written.chat_id, -1):
                wrong.append(f"the answer to {message_id} in chat {written.chat_id} came too early")
            last[written.chat_id] = max(arrived, last.get(written.chat_id, -1))
        return wrong

    def _sent_again(self, recorded: Collection[str]) -> list[str]:
        """Return the answers that were sent again after they had been recorded, or never were."""
        wrong = list[str]()
        for message_id, found in self.answers.items():
            copies = defaultdict[str, list[bool]](list)
            for each in found:
                copies[each.plain].append(str(each.id) in recorded)
            for text, known in copies.items():
                if known != [False] * (len(known) - 1) + [True]:
                    wrong.append(
                        f"message {message_id}: of the copies of {text!r}, {known} are known"
                    )
        return wrong

    @property
    def repeated(self) -> int:
        """Return the number of answers that arrived more than once."""
        texts = Counter((each.reply_to, each.text) for each in self.bot.sent if each.reply_to)
        return sum(count - 1 for count in texts.values())


async def _unfinished(ledger: Ledger) -> bool:
    async with ledger.read() as session:
        query = select(UpdateRow.id).where(col(UpdateRow.state) != "done").limit(1)
        return (await session.execute(query)).first() is not None


@asynccontextmanager
async def serve(
    dice: random.Random,
    places: Sequence[Place] = PRIVATE,
    *,
    echoes: bool = False,
    host: str = "127.0.0.1",
) -> AsyncIterator[Chats]:
    """Yield the chats; the bot's API serves at the address ``host`` until the context ends."""
    async with bot_api.serving(host=host) as bot:
        yield Chats(bot, dice, places, echoes)
