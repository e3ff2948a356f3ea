"""Replies to a session from a page: a worker runs them, without the job of the session."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from prefect.client.schemas.objects import FlowRun

from daybook import api
from daybook.errors import InvalidInput
from daybook.ledger.states import Status
from daybook.prefect import conversations, occurrence, scheduled_runs
from daybook.prefect.occurrence import belongs_to_other_ledger
from daybook.runs import claims
from tests.world.agents import Agent
from tests.world.prefect_world import PrefectWorld
from tests.world.workers import PREFECT_LEAVES_A_SOCKET

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, *PREFECT_LEAVES_A_SOCKET]

KEEPS = 'had(); print("answer to", sys.stdin.read().strip().splitlines()[-1])'


async def flow_run(world: PrefectWorld, flow_run_id: str | None) -> FlowRun:
    return await world.prefect.client.read_flow_run(UUID(str(flow_run_id)))


async def answered(world: PrefectWorld) -> tuple[Agent, Any]:
    """Return the agent and the job of a session with one answer."""
    agent = await world.agents.add(KEEPS)
    stored = await world.deploy(
        on_demand=True, prompt="Brief me", agent=agent.name, channel="inbox"
    )
    await world.executions.complete_here(await world.prefect.custom_run(stored))
    return agent, stored


async def test_a_reply_continues_the_session_and_concerns_nobody_else(world: PrefectWorld) -> None:
    agent, stored = await answered(world)

    asked = await api.sessions.reply(stored.job.name, "Which is urgent?", request_id="one")
    again = await api.sessions.reply(stored.job.name, "Which is urgent?", request_id="one")
    run = await flow_run(world, asked.flow_run_id)
    request = await occurrence.build_claim_request(
        world.ledger, run, dict(run.parameters), holder="here:1", starts=1
    )
    assert (request.kind, request.job_id, request.refused) == ("agent-prompt", None, "")
    await world.executions.complete_here(run)

    assert (again.id, asked.status) == (asked.id, Status.WAITING)
    assert not belongs_to_other_ledger(run, world.ledger.id)
    assert belongs_to_other_ledger(run, "another")
    ended = await api.runs.show(asked.id)
    assert (ended.status, ended.job, ended.trigger) == ("succeeded", None, "session")
    assert ended.deliveries == []
    shown = await api.sessions.show(stored.job.name)
    assert [each.content for each in shown.history] == [
        *("Brief me", "answer to Brief me"),
        *("Which is urgent?", "answer to Which is urgent?"),
    ]
    assert shown.unanswered == []
    assert (await api.jobs.show(stored.id)).run_count == 1
    assert agent.effect_count == 2


async def test_a_request_whose_process_died_runs_once(world: PrefectWorld) -> None:
    agent, stored = await answered(world)
    listed = await api.sessions.show(stored.job.name)
    row = await claims.request_answer(
        world.ledger, listed.id, "dead", {**stored.job.parameters(), "prompt": "Still there?"}
    )
    assert row.flow_run_id is None  # killed here

    world.clock.move(scheduled_runs.REQUEST_GRACE)
    client = world.prefect.client
    first = await scheduled_runs.ensure_all(world.ledger, client)
    second = await scheduled_runs.ensure_all(world.ledger, client)
    assert (len(first.made), second.made) == (1, [])
    run = await flow_run(world, first.made[0])
    await world.executions.complete_here(run)
    await world.executions.complete_here(run)

    shown = await api.sessions.show(stored.job.name)
    assert [each.content for each in shown.history][2:] == [
        *("Still there?", "answer to Still there?"),
    ]
    assert agent.effect_count == 2


async def test_a_new_session_is_shown_before_its_answer(world: PrefectWorld) -> None:
    agent = await world.agents.add(KEEPS)
    asked = await api.sessions.start("What is new?", agent=agent.name)

    shown = await api.sessions.show(str(asked.session_id))
    (waiting,) = shown.unanswered
    assert (shown.title, shown.messages, shown.agent) == ("What is new?", 0, agent.name)
    assert (waiting.prompt, waiting.is_live, waiting.is_message) == ("What is new?", True, True)

    await world.executions.complete_here(await flow_run(world, asked.flow_run_id))
    shown = await api.sessions.show(str(asked.session_id))
    assert (shown.messages, shown.unanswered) == (2, [])


async def test_a_blank_prompt_stores_nothing(world: PrefectWorld) -> None:
    with pytest.raises(InvalidInput, match="prompt"):
        await api.sessions.start("  ")
    assert await api.sessions.list_sessions() == []
    assert await world.runs.rows() == []


async def test_the_deployment_is_created_once_and_repaired(world: PrefectWorld) -> None:
    client = world.prefect.client
    first = await conversations.ensure_deployment(client, "agent-prompt")
    assert await conversations.ensure_deployment(client, "agent-prompt") == first
    found = await client.read_deployment(first)
    assert (found.name, found.entrypoint) == ("Conversations", "flows/agent_prompt.py:agent_prompt")
    assert (found.schedules, found.work_pool_name, found.tags) == ([], "daybook", [])
    assert found.description == conversations.DESCRIPTION


async def test_a_message_runs_again_after_the_pool_was_deleted(world: PrefectWorld) -> None:
    client = world.prefect.client
    deployment_id = UUID(await conversations.ensure_deployment(client, "agent-prompt"))
    body = {"work_pool_name": None, "work_queue_name": None}
    await client.request(
        "PATCH", "/deployments/{id}", path_params={"id": str(deployment_id)}, json=body
    )
    assert (await client.read_deployment(deployment_id)).work_pool_name is None
    asked = await api.sessions.start("Anyone?", agent="nobody")
    run = await flow_run(world, asked.flow_run_id)
    assert run.work_queue_id is not None
    assert (await client.read_deployment(deployment_id)).work_pool_name == "daybook"
