"""A run of a deployment that waits for a person: its process leaves, and another one goes on."""

from __future__ import annotations

import pytest

from daybook import api
from daybook.prefect import scheduled_runs
from tests.calling import LOOKS, ModelAgent, calls
from tests.toolbox import served
from tests.world.workers import PREFECT_LEAVES_A_SOCKET

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.slow, *PREFECT_LEAVES_A_SOCKET]


@pytest.mark.parametrize("approve", [True, False])
async def test_a_call_is_made_once_after_its_approval_and_never_without(
    model_agent: ModelAgent, approve: bool
) -> None:
    world, fake_provider = model_agent.world, model_agent.fake_provider
    async with served(world, LOOKS) as server:
        await model_agent.given(server.name)
        fake_provider.script = [calls(f"{server.name}_write", text="rain"), "Done."]
        stored = await world.deploy(
            on_demand=True, agent=model_agent.name, approve=[f"{server.name}.write"]
        )
        run = await world.prefect.custom_run(stored)
        state = await world.executions.complete_here(run)
        assert state.is_scheduled()
        row = await world.runs.row()
        assert (row.status, row.waits_for, row.holder) == ("waiting", "approval", "")
        assert (server.effect_count, len(fake_provider.requests)) == (0, 1)

        (waiting,) = await api.approvals.list_waiting()
        assert (waiting.tool, waiting.input) == (f"{server.name}_write", 'text="rain"')
        await api.approvals.decide(waiting.ref, approve=approve, reason="so be it")
        moved = await scheduled_runs.ensure_all(world.ledger, world.client)
        assert moved.moved == [str(run.id)]  # the keeper starts it now, and not at the deadline
        state = await world.executions.complete_here(await world.prefect.run(run))

    assert state.is_completed()
    assert (server.effect_count, len(fake_provider.requests)) == (int(approve), 2)
    assert approve == ("so be it" not in fake_provider.requests[-1].prompt)
    row = await world.runs.row()
    assert (row.status, row.output, row.attempts) == ("succeeded", "Done.", 1)
    assert row.usage is not None and row.usage["requests"] == 2


async def test_a_misspelled_tool_fails_the_job_when_it_is_added_or_its_run(
    model_agent: ModelAgent,
) -> None:
    world = model_agent.world
    async with served(world, LOOKS) as server:
        await model_agent.given(server.name)
        stored = await world.deploy(
            on_demand=True, agent=model_agent.name, approve=[f"{server.name}.wrote"]
        )
        state = await world.executions.complete_here(await world.prefect.custom_run(stored))
    assert state.is_failed()
    assert "names no tool of agent" in str((await world.runs.row()).error)
    assert model_agent.fake_provider.requests == []
