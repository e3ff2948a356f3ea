"""Long sessions in real runs: what the agent receives, a kill in the middle of the summary."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence

import pytest
from sqlmodel import select

from daybook import api
from daybook.errors import InvalidInput
from daybook.jobs.store import StoredJob
from daybook.ledger.tables import RunRow, SummaryRow
from daybook.owners import Actor, acting_as
from daybook.runs import sessions
from tests.flows.test_sessions import KEEPS, messages_of, run, sent
from tests.world.agents import Agent
from tests.world.prefect_world import PrefectWorld
from tests.world.workers import PREFECT_LEAVES_A_SOCKET

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.slow, *PREFECT_LEAVES_A_SOCKET]

SUMMARIZES = 'had(); tell("summarizing"); heed(); print("The SUMMARY.")\n'


async def talked(world: PrefectWorld, stored: StoredJob, turns: int) -> None:
    """Add messages to the session of the job, as if that many runs had been answered."""
    row = RunRow(
        occurrence="earlier",
        job_id=stored.id,
        kind="agent-prompt",
        trigger="schedule",
        due=world.ledger.now(),
        status="succeeded",
        queued_at=world.ledger.now(),
        parameters=stored.job.parameters(),
        session_id=f"{stored.job.parameters()['agent']}:job:{stored.id}",
    )
    async with world.ledger.write() as session:
        for number in range(1, turns + 1):
            asked, answer = f"asked {number}", f"said {number}"
            await sessions.append(session, row, None, asked, answer, now=world.ledger.now())


async def summaries_of(world: PrefectWorld) -> Sequence[SummaryRow]:
    async with world.ledger.read() as session:
        return list((await session.execute(select(SummaryRow))).scalars())


def received(agent: Agent) -> list[str]:
    """Return the prompts and answers before the last prompt, as the agent received them."""
    before, _, _ = sent(agent).partition("Now answer this:")
    lines = (line.strip() for line in before.splitlines() if line.startswith("    "))
    return list(lines)


def said(first: int, last: int) -> list[str]:
    return [f"{verb} {number}" for number in range(first, last + 1) for verb in ("asked", "said")]


async def test_what_the_agent_receives_of_a_session_of_400_messages_stays_bounded(
    world: PrefectWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = await world.agents.add(KEEPS)
    summarizer = await world.agents.add(SUMMARIZES)
    monkeypatch.setenv("DAYBOOK_SUMMARY_AGENT", summarizer.name)
    stored = await world.deploy(prompt="And now?", agent=agent.name, summarize_after_messages=40)
    await talked(world, stored, 200)
    session_id = f"{agent.name}:job:{stored.id}"
    summarizer.release()

    await run(world, stored)  # the session was long before: no summary yet
    assert received(agent) == said(161, 200)
    (summary,) = await summaries_of(world)
    assert (summary.through, summary.content) == (382, "The SUMMARY.")
    await run(world, stored)

    question = ["Summarize our conversation so far.", "The SUMMARY."]
    assert received(agent) == [*question, *said(192, 200), "And now?", "answer 1"]
    assert len(await messages_of(world, session_id)) == 404
    assert len(await summaries_of(world)) == summarizer.effect_count == 1
    shown = await api.sessions.show(stored.job.name)
    assert shown.summary is not None
    assert (shown.summary.content, shown.summary.agent) == ("The SUMMARY.", summarizer.name)


async def test_a_run_killed_in_the_middle_of_the_summary_leaves_the_history_uncompressed(
    world: PrefectWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = await world.agents.add(KEEPS)
    summarizer = await world.agents.add(SUMMARIZES)
    monkeypatch.setenv("DAYBOOK_SUMMARY_AGENT", summarizer.name)
    stored = await world.deploy(prompt="And now?", agent=agent.name, summarize_after_messages=30)
    await talked(world, stored, 15)
    killed = await world.executions.begin(await world.prefect.custom_run(stored), bare=True)
    pid = await summarizer.says("summarizing")

    os.killpg(killed.child.pid, signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)
    await killed.wait_for_exit()

    rows = await world.runs.rows(stored)
    answered = next(row for row in rows if row.output == "answer 1")
    assert answered.status == "succeeded"
    assert await summaries_of(world) == []

    summarizer.release()
    await run(world, stored)
    assert received(agent) == [*said(1, 15), "And now?", "answer 1"]
    assert [each.through for each in await summaries_of(world)] == [14]
    await run(world, stored)
    assert received(agent)[:3] == ["Summarize our conversation so far.", "The SUMMARY.", "asked 8"]
    assert len(received(agent)) == 2 + 20


@pytest.mark.floor("E", "A person continues any session")
async def test_a_person_continues_the_session_of_a_job_without_running_it(
    world: PrefectWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = await world.agents.add(KEEPS)
    titles = await world.agents.add('print("News of the day")')
    monkeypatch.setenv("DAYBOOK_TITLE_AGENT", titles.name)
    stored = await world.deploy(prompt="What is new?", agent=agent.name, channel="inbox")
    await run(world, stored)

    answered = await api.sessions.send(stored.job.name, "Which is urgent?")

    session_id = f"{agent.name}:job:{stored.id}"
    assert (answered.status, answered.trigger, answered.job) == ("succeeded", "session", None)
    assert (answered.output, answered.session_id) == ("answer 2", session_id)
    assert received(agent) == ["What is new?", "answer 1"]
    assert "Which is urgent?" in sent(agent)
    assert (await world.jobs.get(stored.id)).row.run_count == 1
    await run(world, stored)
    assert received(agent) == ["What is new?", "answer 1", "Which is urgent?", "answer 2"]
    (listed,) = await api.sessions.list_sessions()
    assert (listed.title, listed.job, listed.messages) == (
        "News of the day",
        stored.job.name,
        6,
    )
    shown = await api.sessions.show(session_id)
    assert shown.history[2].source.trigger == "session"


async def test_a_session_of_one_run_is_continued_too_but_not_by_an_agent(
    world: PrefectWorld,
) -> None:
    agent = await world.agents.add(KEEPS)
    first = await api.runs.ask("What is new?", agent=agent.name)
    assert str(first.session_id).startswith(f"{agent.name}:run:")

    with acting_as(Actor("agent:eva", via="api")), pytest.raises(InvalidInput, match="an agent"):
        await api.sessions.send(str(first.session_id), "Which is urgent?")
    answered = await api.sessions.send(str(first.session_id), "Which is urgent?")

    assert (answered.session_id, answered.output) == (first.session_id, "answer 2")
    assert received(agent) == ["What is new?", "answer 1"]
    second = await api.runs.ask("Anything else?", agent=agent.name)
    assert (second.session_id, second.trigger) == (f"{agent.name}:run:{second.id}", "direct")
