"""Titles and summaries of sessions: what a model gets of a long one, and what is stored."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import pytest
from sqlmodel import select

from daybook.agents.base import AgentReply
from daybook.errors import AgentFailed, AgentTemporary
from daybook.execution import conversation, session_upkeep
from daybook.home import Home
from daybook.ledger.engine import sharing
from daybook.ledger.states import Outcome, Status
from daybook.ledger.tables import SummaryRow
from daybook.policies.compression import KEPT_MESSAGES, Compression
from daybook.runs import sessions, steps, summaries
from daybook.runs.claim_requests import Granted
from daybook.testing import ScriptedAgent
from tests.world import World

pytestmark = pytest.mark.anyio

USED = {"requests": 1, "input_tokens": 70, "output_tokens": 30}


@dataclass
class Agents:
    """The agents that are found, by name; ``compression`` is the setting of each."""

    by_name: dict[str, ScriptedAgent]
    compression: Compression = field(default_factory=Compression)

    async def find(self, _: object, name: str) -> Any:
        agent = self.by_name[name]
        vars(agent)["compression"] = self.compression
        return agent

    @property
    def own(self) -> ScriptedAgent:
        return self.by_name["default"]


@pytest.fixture
def agents(monkeypatch: pytest.MonkeyPatch, daybook_home: Home) -> Agents:
    @asynccontextmanager
    async def no_client() -> AsyncIterator[None]:
        yield

    found = Agents({"default": ScriptedAgent("SUMMARY", name="default")})
    monkeypatch.setattr(session_upkeep, "get_client", no_client)
    monkeypatch.setattr("daybook.execution.agent_lookup.find_agent", found.find)
    return found


class Talk:
    """A session whose runs are answered and tended, one after the other."""

    def __init__(self, world: World, granted: Granted) -> None:
        self.world, self.granted, self.turns = world, granted, 0

    @classmethod
    async def begin(cls, world: World, **policy: Any) -> Talk:
        granted = await world.runs.running(
            await world.jobs.add(every="1h", session_key="ops", **policy)
        )
        return cls(world, granted)

    async def say(self, prompt: str = "", answer: str = "", tokens: int | None = None) -> None:
        """Answer one more prompt, and tend the session."""
        self.turns += 1
        prompt, answer = prompt or f"asked {self.turns}", answer or f"said {self.turns}"
        ledger, granted = self.world.ledger, self.granted
        async with ledger.write() as session:
            before = await sessions.history(session, granted.session_id)
            row = await self.world.runs.row(granted.run_id)
            await sessions.append(session, row, None, prompt, answer, now=ledger.now())
        outcome = Outcome(Status.SUCCEEDED, output=answer, prompt=prompt)
        await session_upkeep.tend(ledger, replace(granted, history=before, tokens=tokens), outcome)

    async def given(self, compression: Compression) -> summaries.CompressedHistory:
        async with self.world.ledger.read() as session:
            return await summaries.history(session, self.granted.session_id, compression)

    async def stored(self) -> Sequence[SummaryRow]:
        async with self.world.ledger.read() as session:
            return list((await session.execute(select(SummaryRow))).scalars())

    async def title(self) -> str:
        async with self.world.ledger.read() as session:
            return (await sessions.find(session, self.granted.session_id)).row.title


@pytest.mark.slow  # 200 turns
@pytest.mark.floor("E", "A long history is compressed by a summary")
async def test_a_model_gets_a_bounded_part_of_a_session_of_400_messages(
    world: World, agents: Agents
) -> None:
    talk, limit = await Talk.begin(world, summarize_after_messages=40), Compression(messages=40)
    for turn in range(1, 201):
        await talk.say()
        found = await talk.given(limit)
        numbers = [each.number for each in found.messages]
        covered = found.summary.through if found.summary else 0
        assert numbers == list(range(covered + 1, 2 * turn + 1))  # nothing is lost between both
        assert min(2 * turn, KEPT_MESSAGES) <= len(numbers) <= 40
        assert found.messages[-1].content == f"said {turn}"
    async with world.ledger.read() as session:
        assert len(await sessions.history(session, talk.granted.session_id, 1_000)) == 400
    stored = await talk.stored()
    assert len(stored) == len(agents.own.requests) == 17
    longest = max(len(each.prompt) for each in agents.own.requests)
    assert longest < 2_000  # the earlier messages are in it as a summary only
    asked = agents.own.requests[-1]
    assert ("SUMMARY" in asked.prompt, "asked 1\n" in asked.prompt) == (True, False)
    assert asked.occurrence == f"{talk.granted.occurrence}#summary.{stored[-1].through}"
    assert (asked.once, asked.tools, asked.history) == (True, (), ())


async def test_a_session_that_was_long_before_is_summarized_in_bounded_parts(
    world: World, agents: Agents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(summaries, "MAX_PART_CHARACTERS", 1_000)
    talk, limit = await Talk.begin(world, summarize_after_messages=30), Compression(messages=30)
    agents.by_name.clear()  # there is no agent to ask
    for _ in range(60):
        await talk.say("q" * 40, "a" * 40)
    assert await talk.stored() == []
    found = await talk.given(limit)
    assert [each.number for each in found.messages] == list(range(61, 121))  # twice the limit
    agents.by_name["default"] = ScriptedAgent("SUMMARY", name="default")

    await talk.say("q" * 40, "a" * 40)

    stored = await talk.stored()
    assert [each.through for each in stored] == [24, 48, 72, 96]  # 24 messages have 960 characters
    assert max(len(each.prompt) for each in agents.own.requests) < 4_000
    assert [each.number for each in (await talk.given(limit)).messages] == list(range(97, 123))


async def test_the_requests_after_the_outcome_are_steps_of_the_run(
    world: World, agents: Agents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAYBOOK_TITLE_AGENT", "titles")
    used = USED | {"cost_usd": 0.25}
    titles = AgentReply("A talk", "titles", model="small", usage=used)
    agents.by_name["titles"] = ScriptedAgent(titles, name="titles")
    agents.by_name["default"] = ScriptedAgent(AgentTemporary("busy"), name="default")
    talk = await Talk.begin(world, summarize_after_messages=30)
    await world.runs.stepped(talk.granted, Status.SUCCEEDED)
    while not agents.own.requests:
        await talk.say()

    async with world.ledger.read() as session:
        answer, title, summary = await steps.of_run(session, talk.granted.run_id)
    assert [each.number for each in (answer, title, summary)] == [1, 2, 3]
    assert (title.position, title.kind, title.name, title.attempt) == (
        "title",
        "request",
        "small",
        1,
    )
    assert (title.status, title.output, title.usage, title.usd) == (
        "succeeded",
        "A talk",
        used,
        0.25,
    )
    assert "asked 1" in str(title.input)
    assert (summary.name, summary.status, summary.error) == ("default", "failed", "busy")
    assert summary.position.startswith("summary.")
    assert title.finished_at is not None and title.started_at <= title.finished_at


@pytest.mark.parametrize(
    "answer",
    [AgentFailed("no"), AgentTemporary("busy"), "", AgentReply("half", "x", cut="max_tokens")],
)
async def test_without_a_complete_summary_the_next_run_gets_the_messages(
    world: World, agents: Agents, answer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    talk, limit = await Talk.begin(world, summarize_after_messages=30), Compression(messages=30)
    agents.by_name["default"] = ScriptedAgent(answer, "SUMMARY", name="default")
    for _ in range(16):
        await talk.say()

    found = await talk.given(limit)
    assert (found.summary, len(found.messages), await talk.stored()) == (None, 32, [])
    (warning,) = [each for each in caplog.records if "is not titled or summarized" in each.message]
    assert warning.levelname == "WARNING"

    await talk.say()
    assert [each.through for each in await talk.stored()] == [14]
    assert len((await talk.given(limit)).messages) == KEPT_MESSAGES


async def test_a_stopped_summary_stores_nothing(world: World, agents: Agents) -> None:
    talk, limit = await Talk.begin(world, summarize_after_messages=30), Compression(messages=30)
    for _ in range(15):
        await talk.say()
    held = agents.by_name["default"] = ScriptedAgent("SUMMARY", name="default", held=True)
    saying = asyncio.create_task(talk.say())
    await held.asked.wait()
    saying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await saying
    assert await talk.stored() == []
    assert len((await talk.given(limit)).messages) == 32


async def test_of_two_processes_that_summarize_one_stores_the_summary(
    world: World, agents: Agents
) -> None:
    talk = await Talk.begin(world)
    for _ in range(16):
        await talk.say()
    limit, session_id = Compression(messages=30), talk.granted.session_id
    async with world.ledger.read() as session:
        part = await summaries.next_part(session, session_id, limit)
        assert part is not None
    results = []
    for content in ("first", "second"):
        async with world.ledger.write() as session:
            row = SummaryRow(
                session_id=session_id,
                through=part.through,
                content=content,
                agent="x",
                run_id="r",
                at=world.clock.now(),
            )
            results.append(await summaries.store(session, part, row))
    assert results == [True, False]
    assert [each.content for each in await talk.stored()] == ["first"]
    async with world.ledger.read() as session:
        assert await summaries.next_part(session, session_id, limit) is None


@pytest.mark.floor("E", "A summary keeps the last messages in full")
async def test_a_limit_in_tokens_keeps_the_last_messages_whatever_their_length(
    world: World, agents: Agents
) -> None:
    talk, limit = await Talk.begin(world, summarize_after_tokens=1_000), Compression(tokens=1_000)
    for _ in range(12):
        await talk.say("q" * 400, "a" * 400)
    found = await talk.given(limit)
    assert found.summary is not None
    assert (found.summary.through, len(found.messages)) == (4, KEPT_MESSAGES)
    agents.by_name.clear()
    for _ in range(12):
        await talk.say("q" * 400, "a" * 400)
    assert len((await talk.given(limit)).messages) == KEPT_MESSAGES  # 20 of 100 tokens are 2,000


async def test_the_agents_own_limit_counts_if_the_job_has_none(
    world: World, agents: Agents
) -> None:
    talk = await Talk.begin(world)
    for _ in range(20):
        await talk.say()
    assert await talk.stored() == []
    agents.compression = Compression(messages=30)
    await talk.say()
    assert [each.through for each in await talk.stored()] == [22]


@pytest.mark.floor("E", "A model may write the title")
async def test_the_operator_chooses_the_agents_of_summaries_and_titles(
    world: World, agents: Agents, monkeypatch: pytest.MonkeyPatch
) -> None:
    reply = AgentReply("**Titles**\nmore", "titles", usage=USED)
    agents.by_name["titles"] = ScriptedAgent(reply, name="titles")
    agents.by_name["small"] = ScriptedAgent(AgentReply("S", "small", model="m", usage=USED))
    monkeypatch.setenv("DAYBOOK_TITLE_AGENT", "titles")
    monkeypatch.setenv("DAYBOOK_SUMMARY_AGENT", "small")
    talk = await Talk.begin(world, summarize_after_messages=30)
    for _ in range(16):
        await talk.say()
    (asked,) = agents.by_name["titles"].requests
    assert "asked 1" in asked.prompt
    assert "said 1" in asked.prompt
    assert await talk.title() == "**Titles**"
    (stored,) = await talk.stored()
    assert (stored.content, stored.agent, stored.model, stored.usage) == ("S", "small", "m", USED)
    assert (stored.through, stored.run_id) == (12, talk.granted.run_id)
    assert agents.own.requests == []
    row = await world.runs.row(talk.granted.run_id)
    assert row.usage == {"requests": 2, "input_tokens": 140, "output_tokens": 60}
    (attempt,) = await world.runs.attempts(talk.granted.run_id)
    assert attempt.usage == row.usage


@pytest.mark.floor("E", "A session has a title: the first line of its first prompt")
async def test_without_a_title_agent_the_title_is_the_first_line_of_the_first_prompt(
    world: World, agents: Agents
) -> None:
    talk = await Talk.begin(world)
    await talk.say("\n  What is\tnew?  \nIn detail.")
    await talk.say("Something else")
    assert await talk.title() == "What is new?"
    assert sessions.title_of("word " * 40) == "word " * 15 + "wor …"
    assert len(sessions.title_of("w" * 90)) == sessions.MAX_TITLE_LENGTH


async def test_no_agent_is_asked_without_tokens(
    world: World, agents: Agents, caplog: pytest.LogCaptureFixture
) -> None:
    talk = await Talk.begin(world, summarize_after_messages=30)
    for _ in range(15):
        await talk.say()
    await talk.say(tokens=0)
    assert agents.own.requests == []
    assert "no tokens of the run are left" in caplog.text
    await talk.say(tokens=50)
    assert [each.tokens for each in agents.own.requests] == [50]


async def test_a_run_that_failed_leaves_its_session_alone(world: World, agents: Agents) -> None:
    talk = await Talk.begin(world, summarize_after_messages=30)
    agents.by_name.clear()
    for _ in range(16):
        await talk.say()
    agents.by_name["default"] = ScriptedAgent("SUMMARY")
    failed = Outcome(Status.FAILED, error="no", prompt="x")
    async with world.ledger.read() as session:
        history = await sessions.history(session, talk.granted.session_id)
    await session_upkeep.tend(world.ledger, replace(talk.granted, history=tuple(history)), failed)
    assert agents.own.requests == []


async def test_what_is_cut_by_tokens_is_summarized_if_the_job_asks_for_it(
    world: World, agents: Agents
) -> None:
    policy = {"summarize_after_messages": 1_000, "history_tokens": 2_000}
    talk, limits = await Talk.begin(world, **policy), Compression(1_000, 0, 2_000)
    for turn in range(1, 31):
        await talk.say("q" * 400, "a" * 400)  # 200 tokens
        found = await talk.given(limits)
        covered = found.summary.through if found.summary else 0
        texts = [len(each.content) for each in found.messages]
        assert sum(texts) // 4 <= 2_000
        assert [each.number for each in found.messages] == list(range(covered + 1, 2 * turn + 1))
    # Each of them left half of the tokens to the prompts and answers that followed.
    assert [each.through for each in await talk.stored()] == [12, 24, 36, 48]


async def test_without_a_summary_the_messages_that_are_too_long_are_only_left_out(
    world: World, agents: Agents
) -> None:
    talk, limits = await Talk.begin(world, history_tokens=1_000), Compression(history=1_000)
    for _ in range(9):
        await talk.say("q" * 400, "a" * 400)
    assert await talk.stored() == []
    assert agents.own.requests == []
    assert [each.number for each in (await talk.given(limits)).messages] == list(range(9, 19))


async def test_each_attempt_of_a_run_gets_the_same_history(world: World, agents: Agents) -> None:
    talk, limits = await Talk.begin(world, summarize_after_messages=30), Compression(messages=30)
    agents.by_name.clear()
    for _ in range(15):
        await talk.say()
    queued = world.clock.now()
    agents.by_name["default"] = ScriptedAgent("SUMMARY", name="default")
    world.clock.move(timedelta(seconds=5))
    await talk.say()  # the run before, whose summary is stored after the next run was queued
    async with world.ledger.read() as session:
        known = await summaries.history(session, talk.granted.session_id, limits, queued)
        later = await summaries.history(session, talk.granted.session_id, limits)
        began = await sessions.history(session, talk.granted.session_id)
    assert (known.summary, len(known.messages)) == (None, 32)
    assert later.summary is not None
    granted = replace(talk.granted, queued_at=queued, history=began)
    await talk.say()  # another run, while this run waits for its second attempt
    with sharing(world.ledger):
        first, *_, last = await conversation.session_history(granted, limits)
    assert (first.content, last.content) == ("asked 1", "said 16")


async def test_a_title_by_a_program_counts_as_a_request_of_unknown_price(
    world: World, agents: Agents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAYBOOK_TITLE_AGENT", "robot")
    agents.by_name["robot"] = robot = ScriptedAgent("A title", name="robot")
    vars(robot)["is_program"] = True
    talk = await Talk.begin(world)
    await talk.say()
    assert await talk.title() == "A title"
    row = await world.runs.row(talk.granted.run_id)
    assert row.usage is not None
    assert (row.usage["requests"], row.usage["cost_usd"]) == (1, None)
