"""Temporary errors: as many attempts as promised and no more, each recorded in the ledger."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from prefect.exceptions import FailedRun
from sqlmodel import col, select

from daybook.ledger.tables import AttemptRow
from flows.agent_prompt import agent_prompt
from tests.world.prefect_world import PrefectWorld
from tests.world.workers import PREFECT_LEAVES_A_SOCKET

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.slow, *PREFECT_LEAVES_A_SOCKET]

HANGS_ONCE = """
had()
if open(sys.argv[1] + ".effects").read().count("\\n") == 1:
    forever()
print("the second time")
"""


async def attempts(world: PrefectWorld) -> list[AttemptRow]:
    async with world.ledger.read() as session:
        found = await session.execute(select(AttemptRow).order_by(col(AttemptRow.number)))
        return list(found.scalars())


async def call(**given: Any) -> dict[str, Any]:
    result: dict[str, Any] = await agent_prompt(**given)
    return result


@pytest.mark.floor("C", "An attempt that timed out is retried")
@pytest.mark.floor("C", "timeout_mins: a job sets its own timeout")
@pytest.mark.floor("C", "retry_count: a run has the number of its attempts")
async def test_an_attempt_that_times_out_is_retried(world: PrefectWorld) -> None:
    agent = await world.agents.add(HANGS_ONCE)
    policy = {"timeout": "5s", "retries": 2, "retry_delay": "1s"}

    result = await call(prompt="Do it", agent=agent.name, policy=policy)

    assert (result["status"], result["output"]) == ("succeeded", "the second time")
    row = await world.runs.row()
    assert (row.status, row.attempts, row.fence) == ("succeeded", 2, 3)
    first, second = await attempts(world)
    assert (first.status, second.status) == ("timed_out", "succeeded")
    assert first.finished_at is not None
    assert second.started_at - first.finished_at >= timedelta(seconds=0.5)  # since the timeout
    assert row.started_at == first.started_at
    assert agent.effect_count == 2


async def test_the_last_attempt_decides_how_the_run_ends(world: PrefectWorld) -> None:
    agent = await world.agents.add("had(); forever()")
    policy = {"timeout": "5s", "retries": 1, "retry_delay": "1s"}

    with pytest.raises(FailedRun, match="no answer within 5 s"):
        await call(prompt="Do it", agent=agent.name, policy=policy)

    row = await world.runs.row()
    assert (row.status, row.attempts) == ("timed_out", 2)
    assert [each.status for each in await attempts(world)] == ["timed_out", "timed_out"]
    assert agent.effect_count == 2


@pytest.mark.floor("C", "Only temporary errors are retried")
async def test_a_permanent_error_is_not_retried(world: PrefectWorld) -> None:
    agent = await world.agents.add("had(); sys.exit(3)")

    with pytest.raises(FailedRun):
        await call(prompt="Do it", agent=agent.name, policy={"retries": 5})

    assert [each.status for each in await attempts(world)] == ["failed"]
    assert agent.effect_count == 1


async def test_a_run_with_a_long_retry_delay_waits_in_prefect(world: PrefectWorld) -> None:
    agent = await world.agents.add("had(); forever()")
    stored = await world.deploy(
        on_demand=True, agent=agent.name, timeout="5s", retries=1, retry_delay="2m"
    )
    run = await world.prefect.custom_run(stored)

    state = await world.executions.complete(run)

    row = await world.runs.row()
    assert (row.status, row.attempts) == ("waiting", 1)
    assert row.reason == "attempt 1 timed_out: no answer within 5 s; Daybook ended the agent"
    assert row.until is not None
    assert (state.name, state.state_details.scheduled_time) == (
        "AwaitingConcurrencySlot",
        row.until,
    )
    (first,) = await attempts(world)
    assert first.finished_at is not None
    waits = row.until - first.finished_at
    assert timedelta(minutes=2) - timedelta(seconds=5) < waits < timedelta(minutes=2, seconds=20)
    assert agent.effect_count == 1
