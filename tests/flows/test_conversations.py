"""A conversation: from the brief to the answer, with a real Prefect and each local service."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from sqlmodel import col, select

from daybook import api
from daybook.agents import showing
from daybook.clock import SYSTEM_CLOCK
from daybook.errors import InvalidInput
from daybook.features.conversations import accounts, listening, operations, store
from daybook.features.conversations.drafts import MARK
from daybook.ledger.states import Delivery
from daybook.ledger.tables import OutboxRow, RunRow
from tests import bot_api, slack_api
from tests.calling import ModelAgent, calls
from tests.chat_service import ChatService, SentMessage
from tests.conversing import KEEPS, NOTES, Conversing, listening_to
from tests.pictures import JPEG, PNG, sent_to_model
from tests.providers import Answer
from tests.toolbox import install
from tests.waiting import becomes_true
from tests.world.prefect_world import PrefectWorld
from tests.world.workers import PREFECT_LEAVES_A_SOCKET

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, *PREFECT_LEAVES_A_SOCKET]

SERVING: dict[str, Callable[[], AbstractAsyncContextManager[ChatService[Any]]]] = {
    "telegram": bot_api.serving,
    "slack": slack_api.serving,
}
WRONG_TOKENS = {"telegram": "12:wrong-s3cr3t", "slack": "xoxb-wrong-s3cr3t"}


@dataclass
class Chat(Conversing):
    """Anna's private chat with the bot, and the processes that a worker and a keeper would be."""

    bot: ChatService[Any]

    @property
    def place(self) -> dict[str, str]:
        return {"channel": self.bot.service, "chat_id": self.bot.chat}

    async def says(self, text: str, reply_to: SentMessage | None = None) -> SentMessage:
        """Write, let the requested run happen, and return the answer."""
        before = len(self.bot.sent)
        self.bot.write(text, reply_to=reply_to)
        return await self.next(before)

    async def sends(self, content: bytes, text: str = "") -> SentMessage:
        """Send a picture, let the requested run happen, and return the answer."""
        before = len(self.bot.sent)
        self.bot.sends(content, text)
        return await self.next(before)

    async def presses(self, on: SentMessage, word: str) -> SentMessage:
        before = len(self.bot.sent)
        self.bot.press(on, word)
        return await self.next(before)

    async def next(self, before: int) -> SentMessage:
        """Run what waits and send what is due, until the bot has sent another message."""
        await self.works_until(lambda: len(self.bot.sent) > before)
        last: SentMessage = self.bot.sent[-1]
        return last


@pytest.fixture(params=["telegram", pytest.param("slack", marks=pytest.mark.slow)])
def service(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def chat(
    world: PrefectWorld, monkeypatch: pytest.MonkeyPatch, service: str
) -> AsyncIterator[Chat]:
    """Yield the chat of Anna, who is paired as an operator with the channel of the service."""
    monkeypatch.setattr(listening, "CHECK_SECONDS", 0.1)
    monkeypatch.setattr(listening, "TYPING_SECONDS", 0.1)
    async with SERVING[service]() as bot:
        connected = await operations.connect(service, service, bot.settings)
        async with listening_to(world):
            found = Chat(world, bot)
            paired = await found.says(connected.code.code)
            assert "You are paired as operator" in paired.plain
            yield found
        await accounts.kind_of(service).store.remove(world.client, service)


async def test_a_brief_is_answered_and_goes_on_in_its_session(chat: Chat) -> None:
    world = chat.world
    agent = await world.agents.add(KEEPS)
    stored = await world.deploy(
        on_demand=True,
        prompt="Brief me",
        agent=agent.name,
        **chat.place,
    )
    await world.executions.complete_here(await world.prefect.custom_run(stored))
    await chat.send()
    brief = await chat.bot.message("answer to Brief me")
    assert brief.plain.startswith(stored.job.name)

    answer = await chat.says("which is urgent?", reply_to=brief)
    assert answer.plain == "answer to which is urgent?"
    assert answer.reply_to is not None
    assert chat.bot.chat in chat.bot.typing
    again = await chat.says("why?", reply_to=answer)
    assert again.plain == "answer to why?"

    shown = await api.sessions.show(stored.job.name)
    assert [each.content for each in shown.history] == [
        *("Brief me", "answer to Brief me"),
        *("which is urgent?", "answer to which is urgent?"),
        *("why?", "answer to why?"),
    ]
    assert agent.effect_count == 3


@pytest.mark.floor("E", "A person's message in the chat continues it")
@pytest.mark.slow
async def test_a_message_without_a_thread_goes_to_the_session_of_the_chat(
    chat: Chat, service: str
) -> None:
    world = chat.world
    agent = await world.agents.add(KEEPS)
    await operations.DOCUMENTS[service].edit(service, {"agent": agent.name})
    await chat.bot.until(lambda: chat.bot.calls.count(chat.bot.identifies) >= 3)  # it listens anew
    first = await chat.says("remember {{last_output}}")
    assert first.plain == "answer to remember { {last_output}}"
    assert (await chat.says("and?")).plain == "answer to and?"
    [session] = await api.sessions.list_sessions()
    assert session.id == f"{agent.name}:chat:{service}:{chat.bot.chat}"
    assert session.messages == 4
    asked = await chat.says("/ask something else")
    assert asked.plain == "answer to something else"
    assert len(await api.sessions.list_sessions()) == 2

    # A job of the session `chat` continues the same conversation.
    stored = await world.deploy(
        on_demand=True,
        prompt="Summarize",
        agent=agent.name,
        **chat.place,
        session="chat",
    )
    await world.executions.complete_here(await world.prefect.custom_run(stored))
    assert (await api.sessions.show(session.id)).messages == 6


@pytest.mark.slow
async def test_an_answer_is_shown_while_it_is_written(
    chat: Chat, model_agent: ModelAgent, service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(showing, "INTERVAL_SECONDS", 0.01)
    text = "A first half of the answer that is long enough. " * 2
    goes_on = threading.Event()
    await model_agent.given()
    await api.agents.edit(model_agent.name, {"stream": True})
    model_agent.fake_provider.script = [Answer(text, wait=goes_on)]
    await operations.DOCUMENTS[service].edit(service, {"agent": model_agent.name})
    await chat.bot.until(lambda: chat.bot.calls.count(chat.bot.identifies) >= 3)  # it listens anew
    before = len(chat.bot.sent)
    chat.bot.write("what is on?")
    works = asyncio.create_task(chat.works_until(lambda: len(chat.bot.sent) > before + 1))
    try:
        draft = await chat.bot.message(MARK)
        assert text.startswith(draft.plain.removesuffix(MARK).strip())
        assert not draft.is_deleted
    finally:
        goes_on.set()
    await works
    await chat.bot.until(lambda: draft.is_deleted)
    assert [each.plain.strip() for each in chat.bot.sent[before:] if not each.is_deleted] == [
        text.strip()
    ]


@pytest.mark.floor("E", "A picture in the chat reaches the model")
@pytest.mark.slow
async def test_a_model_gets_a_picture_and_still_has_it_later(
    chat: Chat, model_agent: ModelAgent, service: str
) -> None:
    await model_agent.given()
    fake_provider = model_agent.fake_provider
    fake_provider.script = ["A cat.", "Grey.", "A dog."]
    await operations.DOCUMENTS[service].edit(service, {"agent": model_agent.name})
    await chat.bot.until(lambda: chat.bot.calls.count(chat.bot.identifies) >= 3)  # it listens anew

    refused = await chat.sends(PNG, "what is this?")
    assert "gets no pictures" in refused.plain
    assert f"daybook agents edit {model_agent.name} --pictures" in refused.plain
    assert fake_provider.requests == []

    await api.agents.edit(model_agent.name, {"pictures": True})
    answer = await chat.sends(PNG, "what is this?")
    assert answer.plain == "A cat."
    assert (await chat.says("which colour?", reply_to=answer)).plain == "Grey."
    assert (await chat.sends(JPEG)).plain == "A dog."
    first, second, third = [each.body for each in fake_provider.requests]
    assert sent_to_model(first) == sent_to_model(second) == [PNG]
    assert sent_to_model(third) == [PNG, JPEG]
    assert "what is this?" in fake_provider.requests[0].prompt
    [session] = await api.sessions.list_sessions()
    shown = await api.sessions.show(session.id)
    assert shown.history[0].content.startswith("what is this?\n\n[picture: ")
    run = await api.runs.show((await chat.world.runs.rows())[-1].id)
    assert ["Binary" in (step.input or "") for step in run.steps] == [False]


@pytest.mark.slow
async def test_a_program_gets_a_picture_as_a_file_for_its_time(chat: Chat, service: str) -> None:
    world = chat.world
    agent = await world.agents.add(
        "import glob\n"
        "prompt = sys.stdin.read()\n"
        "[path] = [each for each in prompt.split() if each.startswith('.claude/')]\n"
        "mode = os.stat(os.path.dirname(path)).st_mode & 0o777\n"
        "print(open(path, 'rb').read().hex()[:16], oct(mode), path.rpartition('/')[2])\n"
    )
    await api.agents.edit(agent.name, {"work_dir": str(world.home.path)})
    await operations.DOCUMENTS[service].edit(service, {"agent": agent.name})
    await chat.bot.until(lambda: chat.bot.calls.count(chat.bot.identifies) >= 3)
    answer = await chat.sends(PNG, "what is this?")
    assert answer.plain == f"{PNG[:8].hex()} 0o700 1.png"
    assert not list(world.home.path.glob(".claude/skills/*"))


@pytest.mark.floor("E", "A reply in the chat approves or rejects a call")
@pytest.mark.parametrize("way", ["reply", pytest.param("button", marks=pytest.mark.slow)])
async def test_a_call_is_approved_from_the_phone_and_made_once(
    chat: Chat, model_agent: ModelAgent, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    world = chat.world
    notes = world.home.path / "notes"
    install(world.home.path / "site", NOTES.format(notes=str(notes)), "note")
    monkeypatch.syspath_prepend(str(world.home.path / "site"))
    await model_agent.given("note")
    model_agent.fake_provider.script = [calls("note", text="rain"), "Done."]
    stored = await world.deploy(
        on_demand=True,
        agent=model_agent.name,
        approve=["note"],
        **chat.place,
    )
    await world.executions.complete_here(await world.prefect.custom_run(stored))
    await chat.send()
    question = await chat.bot.message("wants to call note")
    assert question.buttons == {"Approve": "approve", "Reject": "reject"}
    unclear = await chat.says("ok, but with snow", reply_to=question)
    assert "To decide, reply with" in unclear.plain
    assert not notes.exists()

    before = len(chat.bot.sent)
    if way == "reply":
        chat.bot.write("ok", reply_to=question)
    else:
        chat.bot.press(question, "approve")
    await chat.next(before)
    await chat.works_until(lambda: any("Done." in each.plain for each in chat.bot.sent))
    assert notes.read_text() == "rain\n"
    assert any(each.plain.startswith("Approved: note") for each in chat.bot.sent)
    await chat.bot.until(lambda: not question.buttons)
    chat.bot.press(question, "reject")
    late = await chat.bot.until(
        lambda: [each for _, each in chat.bot.acknowledged if "no longer" in each]
    )
    assert late == ["This is no longer possible: it was decided, or it has changed."]
    run = await api.runs.show((await world.runs.row()).id)
    assert run.approvals[0].decided_by == f"Anna ({chat.bot.service})"


async def test_a_failure_is_retried_with_a_button(chat: Chat) -> None:
    world = chat.world
    flag = world.home.path / "works"
    agent = await world.agents.add(
        f'import os; print("fine") if os.path.exists({str(flag)!r}) else sys.exit("no network")'
    )
    stored = await world.deploy(
        on_demand=True,
        prompt="Brief me",
        agent=agent.name,
        **chat.place,
    )
    await world.executions.complete_here(await world.prefect.custom_run(stored))
    await chat.send()
    alert = await chat.bot.message("failed")
    assert list(alert.buttons) == ["Retry", "Show log", "Snooze 1 h", "Pause"]
    flag.touch()
    chat.bot.press(alert, "retry")
    ends = {"fine", "again."}
    await chat.works_until(lambda: ends <= {each.plain.split()[-1] for each in chat.bot.sent})
    await chat.bot.message(f"{stored.job.name} runs again.")
    runs = await world.runs.rows()
    assert [each.status for each in runs] == ["failed", "succeeded"]
    chat.bot.press(alert, "pause")
    await chat.next(len(chat.bot.sent))
    assert not (await api.jobs.show(stored.id)).enabled


@pytest.mark.slow
async def test_a_failed_answer_says_why_and_a_stopped_one_that_it_stopped(
    chat: Chat, service: str
) -> None:
    world = chat.world
    broken = await world.agents.add('sys.exit("no model today")')
    await operations.DOCUMENTS[service].edit(service, {"agent": broken.name})
    await chat.bot.until(lambda: chat.bot.calls.count(chat.bot.identifies) >= 3)
    answer = await chat.says("hello")
    assert answer.plain.startswith("I could not answer:")
    assert "no model today" in answer.plain
    chat.bot.write("hello again")

    async def is_requested() -> bool:
        return len(await world.runs.rows()) == 2

    assert await becomes_true(is_requested, 60)
    stopped = await chat.says("stop")
    assert stopped.plain == "Stopped."
    rows: list[RunRow] = await world.runs.rows()
    assert [each.status for each in rows] == ["failed", "cancelled"]


@pytest.mark.slow
@pytest.mark.parametrize("service", ["telegram"])
async def test_no_message_is_lost_while_the_token_is_rotated(chat: Chat, service: str) -> None:
    """The old token is revoked while answers are written; another message arrives before the new
    one is stored. The refused answers need not wait for their next attempts.
    """
    world, bot = chat.world, chat.bot
    assert isinstance(bot, bot_api.BotApi)
    agent = await world.agents.add(KEEPS)
    await operations.DOCUMENTS[service].edit(service, {"agent": agent.name})
    await bot.until(lambda: bot.calls.count(bot.identifies) >= 3)  # it listens anew
    assert (await chat.says("one")).plain == "answer to one"

    sent = len(bot.sent)
    bot.write("two")
    assert await becomes_true(lambda: has_runs(world, 2), 30)
    bot.token = f"{bot.token}-rotated"
    await chat.works_until(lambda: agent.effect_count == 2)
    await chat.send()
    bot.write("three")  # reaches the poll that began before, and no later one
    assert await becomes_true(lambda: has_problem(world, "refuses the token"), 30)
    async with world.ledger.write() as session:
        failed = (await session.execute(select(OutboxRow).where(col(OutboxRow.attempts) > 0))).all()
        waits = [row for (row,) in failed if row.status == Delivery.PENDING]
        for row in waits:
            row.next_at = SYSTEM_CLOCK.now() + timedelta(hours=10)
            session.add(row)
    assert len(waits) == 1
    bot.write("four")
    assert len(bot.sent) == sent
    await operations.connect(service, service, bot.settings, replace=True)
    assert await becomes_true(lambda: is_due(world, waits[0].id), 30)
    await chat.works_until(lambda: len(bot.sent) >= sent + 3)

    answers = [f"answer to {word}" for word in ("two", "three", "four")]
    assert [each.plain for each in bot.sent[sent:]] == answers
    assert agent.effect_count == 4


async def has_runs(world: PrefectWorld, number: int) -> bool:
    return len(await world.runs.rows()) == number


async def is_due(world: PrefectWorld, message_id: str) -> bool:
    async with world.ledger.read() as session:
        return (await session.get_one(OutboxRow, message_id)).next_at <= SYSTEM_CLOCK.now()


async def has_problem(world: PrefectWorld, text: str) -> bool:
    async with world.ledger.read() as session:
        return any(text in each.problem for each in await store.accounts(session))


async def test_a_refused_token_stores_nothing(world: PrefectWorld, service: str) -> None:
    async with SERVING[service]() as bot:
        wrong = {**bot.settings, "token": WRONG_TOKENS[service]}
        with pytest.raises(InvalidInput) as refused:
            await operations.connect(service, service, wrong)
    assert "s3cr3t" not in str(refused.value)
    assert await operations.DOCUMENTS[service].list() == []
