"""People in chats in the chaos test: each message is answered exactly once, or shown as failed.

Two people write to a Telegram bot, whose API is a local server that also fails: it answers 429 and
502, delivers updates again and in another order, and sometimes sends a message but answers 502.
Only the leading keeper hears them.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise

from sqlmodel import col, select
from starlette.responses import Response

from chaos.workload import STEPPING_AGENT
from daybook.clock import SYSTEM_CLOCK
from daybook.features.conversations import operations, store
from daybook.features.conversations.tables import UpdateRow
from daybook.ledger.engine import Ledger
from daybook.ledger.tables import RunRow
from daybook.runs.claim_requests import session_request_key
from tests import bot_api
from tests.bot_api import TOKEN, BotApi

CHANNEL = "telegram"
INTERVAL = timedelta(seconds=8)
MAX_WAIT = timedelta(seconds=60)
PEOPLE = (1, 2)
_FAULTS = {"getUpdates": 0.10, "sendMessage": 0.15, "sendChatAction": 0.3}
"""Share of the requests that fail, by method."""
_SENT_ANYWAY = 0.3
"""Share of the failed messages that were sent nevertheless."""


@dataclass
class Chats:
    """What people have written: the chat by the id of the message, and the keys of their runs."""

    bot: BotApi
    dice: random.Random
    written: dict[int, str] = field(default_factory=dict)
    keys: set[str] = field(default_factory=set)

    async def connect(self) -> None:
        """Connect the bot as a channel, and let both people write a code."""
        settings = {"token": TOKEN, "api_url": self.bot.address, "agent": STEPPING_AGENT}
        code = await operations.connect("telegram", CHANNEL, settings)
        self.bot.write(code.code.code, person=PEOPLE[0])
        for each in PEOPLE[1:]:
            self.bot.write((await operations.make_code(CHANNEL)).code, person=each)

    async def write(self, end: datetime) -> None:
        """Write messages until ``end``, while the bot's API fails."""
        self.bot.redelivers = True
        self.bot.disturb = self._disturb
        number = 0
        while SYSTEM_CLOCK.now() < end:
            person = self.dice.choice(PEOPLE)
            update_id = f"{TOKEN.partition(':')[0]}-{self.bot.next_update}"
            message_id = self.bot.write(f"chat-{number}", person=person)
            self.written[message_id] = str(person)
            self.keys.add(session_request_key(store.answer_key(CHANNEL, update_id)))
            number += 1
            await SYSTEM_CLOCK.wait_until(SYSTEM_CLOCK.now() + INTERVAL)
        self.bot.disturb = None

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
        wrong = [f"not handled: {each.id}" for each in updates if each.state != "done"]
        count = Counter(row.occurrence for row in rows)
        wrong += [f"{count[key]} runs: {key}" for key in sorted(self.keys) if count[key] != 1]
        answers = defaultdict[int, list[str]](list)
        for each in self.bot.sent:
            if each.reply_to in self.written:
                answers[each.reply_to].append(each.chat_id)
        for message_id, chat in self.written.items():
            found = set(answers[message_id])
            if found != {chat}:
                wrong.append(f"message {message_id} of chat {chat} is answered in {sorted(found)}")
        by_position = sorted(
            (each for each in updates if each.run_id), key=lambda each: each.position
        )
        queued = {row.id: row.queued_at for row in rows}
        for before, after in pairwise(by_position):
            if queued[str(before.run_id)] > queued[str(after.run_id)]:
                wrong.append(f"update {after.id} was handled before update {before.id}")
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
async def serve(dice: random.Random) -> AsyncIterator[Chats]:
    """Yield the chats; the bot's API serves until the context ends."""
    async with bot_api.serving() as bot:
        yield Chats(bot, dice)
