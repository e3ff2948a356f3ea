"""Sessions as an agent sees them: what each run sends to it (requirement 26)."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from datetime import timedelta

import pytest

from daybook.clock import SYSTEM_CLOCK
from daybook.jobs.store import StoredJob
from daybook.ledger.states import Outcome, Status
from daybook.ledger.tables import MessageRow
from daybook.runs import claims, sessions
from daybook.runs.claim_requests import ClaimRequest, Granted
from flows.agent_prompt import agent_prompt
from tests.world.agents import Agent
from tests.world.prefect_world import PrefectWorld
from tests.world.workers import PREFECT_LEAVES_A_SOCKET

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.slow, *PREFECT_LEAVES_A_SOCKET]

# Stores its input in one file per run, and answers with the number of the run.
KEEPS = """
had()
number = open(sys.argv[1] + ".effects").read().count("\\n")
open(f"{sys.argv[1]}.{number}", "w").write(sys.stdin.read())
print(f"answer {number}")
"""


def sent(agent: Agent) -> str:
    """Return what the agent's last run received."""
    return agent.base.with_suffix(f".{agent.effect_count}").read_text()


async def messages_of(world: PrefectWorld, session_id: str) -> Sequence[MessageRow]:
    async with world.ledger.read() as session:
        return await sessions.history(session, session_id, 1000)


async def run(world: PrefectWorld, stored: StoredJob) -> None:
    state = await world.executions.complete(await world.prefect.custom_run(stored))
    assert state.is_completed(), state.message


async def earlier(world: PrefectWorld, stored: StoredJob, runs: int) -> None:
    """Record answered runs of the job directly in the ledger."""
    for number in range(1, runs + 1):
        row = await claims.request(world.ledger, stored, str(number), "manual")
        claim_request = ClaimRequest(
            row.occurrence, row.kind, row.trigger, row.due, "here:1", row.parameters, stored.id
        )
        granted = await claims.claim(world.ledger, claim_request)
        assert isinstance(granted, Granted)
        await claims.begin(world.ledger, granted.run_id, granted.fence)
        outcome = Outcome(Status.SUCCEEDED, output=f"said {number}", prompt=f"asked {number}")
        await claims.finish(world.ledger, granted.run_id, granted.fence, outcome)


@pytest.mark.floor("A", "A reused session continues with its history")
@pytest.mark.floor("C", "A kept session gets the prompt at every run")
async def test_the_second_run_receives_the_first_runs_prompt_and_answer(
    world: PrefectWorld,
) -> None:
    agent = await world.agents.add(KEEPS)
    stored = await world.deploy(on_demand=True, prompt="/reset {{job}}", agent=agent.name)
    prompt = f"/reset {stored.job.name}"

    await run(world, stored)
    assert sent(agent) == prompt
    await run(world, stored)

    before, _, now = sent(agent).partition("Now answer this:")
    assert before.index(prompt) < before.index("answer 1")
    assert now.strip() == prompt
    rows = await world.runs.rows()
    assert {row.session_id for row in rows} == {f"{agent.name}:job:{stored.id}"}
    messages = await messages_of(world, str(rows[0].session_id))
    assert [each.content for each in messages] == [prompt, "answer 1", prompt, "answer 2"]
    assert prompt in await world.prefect.artifact(rows[0].flow_run_id)


async def test_the_fiftieth_run_receives_the_last_twenty_messages_and_its_prompt(
    world: PrefectWorld,
) -> None:
    agent = await world.agents.add(KEEPS)
    stored = await world.deploy(on_demand=True, prompt="asked 50", agent=agent.name)
    await earlier(world, stored, 49)

    await run(world, stored)

    words = sent(agent)
    numbers = range(40, 50)
    expected = [f"{verb} {number}" for number in numbers for verb in ("asked", "said")]
    places = [words.index(each) for each in [*expected, "asked 50"]]
    assert places == sorted(places)
    assert "said 39" not in words
    assert words.count("asked") == 11
    assert words.count("    said ") == 10


@pytest.mark.floor("C", "A run with a session of its own gets only its prompt")
async def test_a_run_with_a_new_session_receives_only_its_prompt(world: PrefectWorld) -> None:
    agent = await world.agents.add(KEEPS)
    stored = await world.deploy(on_demand=True, prompt="Alone?", agent=agent.name, session="new")

    for _ in range(2):
        await run(world, stored)
        assert sent(agent) == "Alone?"

    rows = await world.runs.rows()
    assert [row.session_id for row in rows] == [f"{agent.name}:run:{row.id}" for row in rows]


@pytest.mark.floor("B", "Messages with the same session_id continue one session")
async def test_direct_calls_with_the_same_session_key_share_a_session(world: PrefectWorld) -> None:
    agent = await world.agents.add(KEEPS)
    await agent_prompt(prompt="One?", agent=agent.name)
    await agent_prompt(prompt="Two?", agent=agent.name, session_key="ops")
    assert sent(agent) == "Two?"

    await agent_prompt(prompt="Three?", agent=agent.name, session_key="ops")

    assert "Two?" in sent(agent)
    assert "answer 2" in sent(agent)
    assert "One?" not in sent(agent)


async def test_a_failed_run_is_not_in_the_conversation(world: PrefectWorld) -> None:
    agent = await world.agents.add('had(); print("half"); sys.exit(sys.stdin.read() == "No")')
    failed = await world.deploy(on_demand=True, prompt="No", agent=agent.name, session_key="ops")
    state = await world.executions.complete(await world.prefect.custom_run(failed))

    assert state.is_failed()
    assert await messages_of(world, f"{agent.name}:ops") == ()


@pytest.mark.floor("B", "session_id names a session that jobs share")
@pytest.mark.floor("C", "session_key names a session that jobs share")
async def test_two_jobs_that_share_a_session_take_turns(world: PrefectWorld) -> None:
    agent = await world.agents.add(
        'had(); tell("running"); open(sys.argv[1] + ".turn").read(1); print("answer")'
    )
    go = agent.base.with_suffix(".turn")
    os.mkfifo(go)
    one, two = [
        await world.deploy(on_demand=True, prompt=prompt, agent=agent.name, session_key="ops")
        for prompt in ("One?", "Two?")
    ]
    executions = [
        await world.executions.begin(await world.prefect.custom_run(stored), bare=True)
        for stored in (one, two)
    ]
    await agent.says("running")
    async with asyncio.timeout(60):
        while {row.status for row in await world.runs.rows()} != {"running", "waiting"}:
            assert agent.effect_count == 1
            await SYSTEM_CLOCK.wait_until(SYSTEM_CLOCK.now() + timedelta(seconds=0.1))
    waiting = next(row for row in await world.runs.rows() if row.status == "waiting")
    assert waiting.reason.startswith(f"session {agent.name}:ops is busy: run ")
    await asyncio.to_thread(go.write_text, "x")
    await agent.says("running")
    await asyncio.to_thread(go.write_text, "x")
    for execution in executions:
        code, words = await execution.wait_for_exit()
        assert code == 0, words

    rows = await world.runs.rows()
    assert [(row.status, row.attempts) for row in rows] == [("succeeded", 1)] * 2
    messages = await messages_of(world, f"{agent.name}:ops")
    assert sorted(each.content for each in messages[::2]) == ["One?", "Two?"]
    first, second = messages[0].run_id, messages[2].run_id
    assert [each.run_id for each in messages] == [first, first, second, second]
    earlier_one, later_one = sorted(rows, key=lambda row: str(row.started_at))
    assert earlier_one.finished_at is not None
    assert later_one.started_at is not None
    assert earlier_one.finished_at <= later_one.started_at
