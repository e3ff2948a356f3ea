"""Runs of model agents at a server of two protocols: answers, cost, and number of attempts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from prefect.exceptions import FailedRun
from sqlmodel import col, select

from daybook.agents import documents
from daybook.api import agents
from daybook.ledger.tables import AttemptRow
from flows.agent_prompt import agent_prompt
from tests.providers import KEY, Answer, Cut, Hang, Provider, Status, Step, limited, provider
from tests.world.prefect_world import PrefectWorld
from tests.world.workers import PREFECT_LEAVES_A_SOCKET

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.slow, *PREFECT_LEAVES_A_SOCKET]

QUICK = {"timeout": "20s", "retries": 2, "retry_delay": "1s"}


class ProtocolAgent:
    """Model agent of one of the two protocols, and its server."""

    def __init__(self, world: PrefectWorld, fake_provider: Provider, name: str) -> None:
        self.world, self.fake_provider, self.name = world, fake_provider, name

    async def run(self, *script: Step, **given: Any) -> dict[str, Any]:
        self.fake_provider.script = list(script)
        policy = QUICK | given.pop("policy", {})
        result: dict[str, Any] = await agent_prompt(
            prompt="What is on?", agent=self.name, policy=policy, **given
        )
        return result

    async def attempts(self) -> list[AttemptRow]:
        async with self.world.ledger.read() as session:
            found = await session.execute(select(AttemptRow).order_by(col(AttemptRow.number)))
            return list(found.scalars())

    def keys(self) -> list[str]:
        """Return the idempotency key of each request."""
        return [request.headers["idempotency-key"] for request in self.fake_provider.requests]


@pytest.fixture(params=["openai", "anthropic"])
async def protocol_agent(
    world: PrefectWorld, request: pytest.FixtureRequest
) -> AsyncIterator[ProtocolAgent]:
    with provider() as fake_provider:
        openai = request.param == "openai"
        settings = {
            "model": "openai:gpt-4o-mini" if openai else "anthropic:claude-haiku-5-5",
            "base_url": fake_provider.address if openai else fake_provider.origin,
            "api_key": KEY,
        }
        name = f"m-{uuid4().hex[:8]}"
        await documents.add(world.client, name, "model", settings)
        yield ProtocolAgent(world, fake_provider, name)


async def test_an_answer_with_its_tokens_and_cost_is_recorded(
    protocol_agent: ProtocolAgent,
) -> None:
    result = await protocol_agent.run(Answer("Nothing.", input_tokens=1_000, output_tokens=200))

    assert (result["status"], result["output"]) == ("succeeded", "Nothing.")
    row = await protocol_agent.world.runs.row()
    assert row.usage is not None
    assert (row.usage["input_tokens"], row.usage["output_tokens"]) == (1_000, 200)
    assert row.usage["cost_usd"] > 0
    assert row.model in {"gpt-4o-mini", "claude-haiku-5-5"}
    assert len(protocol_agent.fake_provider.requests) == 1


async def test_a_429_is_retried_not_before_the_requested_time(
    protocol_agent: ProtocolAgent,
) -> None:
    result = await protocol_agent.run(limited("3"), "Now.")

    assert (result["status"], result["output"]) == ("succeeded", "Now.")
    first, second = await protocol_agent.attempts()
    assert (first.status, second.status) == ("failed", "succeeded")
    assert "429" in str(first.error)
    assert first.finished_at is not None
    assert second.started_at - first.finished_at >= timedelta(seconds=2.5)  # since the response
    occurrence = (await protocol_agent.world.runs.row()).occurrence
    assert protocol_agent.keys() == [occurrence, occurrence]


async def test_each_test_of_an_agent_has_its_own_occurrence(protocol_agent: ProtocolAgent) -> None:
    for _ in range(2):
        await agents.test(protocol_agent.name)
    one, other = protocol_agent.keys()
    assert one != other
    assert one.startswith("test:")


@pytest.mark.floor("C", "retries: a failed attempt is repeated up to that often")
@pytest.mark.parametrize("step", [Status(500), Cut()], ids=["500", "cut"])
async def test_a_temporary_error_is_retried_exactly_as_often_as_promised(
    protocol_agent: ProtocolAgent, step: Step
) -> None:
    with pytest.raises(FailedRun):
        await protocol_agent.run(step)

    row = await protocol_agent.world.runs.row()
    assert (row.status, row.attempts) == ("failed", 3)
    assert [each.status for each in await protocol_agent.attempts()] == ["failed"] * 3
    assert len(protocol_agent.fake_provider.requests) == 3


async def test_a_model_that_hangs_times_out_in_each_attempt(protocol_agent: ProtocolAgent) -> None:
    with pytest.raises(FailedRun, match="no answer within 5 s"):
        await protocol_agent.run(Hang(), policy={"timeout": "5s", "retries": 1})

    row = await protocol_agent.world.runs.row()
    assert (row.status, row.attempts) == ("timed_out", 2)
    assert len(protocol_agent.fake_provider.requests) == 2


@pytest.mark.floor("C", "Only temporary errors are retried")
async def test_a_wrong_key_is_not_retried_and_not_shown(protocol_agent: ProtocolAgent) -> None:
    with pytest.raises(FailedRun) as failed:
        await protocol_agent.run(Status(401, f"Incorrect API key provided: {KEY}"))

    row = await protocol_agent.world.runs.row()
    assert (row.status, row.attempts) == ("failed", 1)
    assert "401" in str(row.error)
    assert "key" in str(row.error)
    assert KEY not in str(row.error) + str(failed.value)
    assert len(protocol_agent.fake_provider.requests) == 1
