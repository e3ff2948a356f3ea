"""Parameters made invalid in Prefect, and runs of another ledger's deployments."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from tests.world.prefect_world import PrefectWorld
from tests.world.workers import PREFECT_LEAVES_A_SOCKET

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.slow, *PREFECT_LEAVES_A_SOCKET]


async def test_a_prompt_blanked_in_the_ui_does_not_lose_a_due_time(world: PrefectWorld) -> None:
    agent = await world.agents.add("had(); print(sys.stdin.read())")
    stored = await world.deploy(prompt="What is new?", every="20s", agent=agent.name)
    blank = stored.job.parameters() | {"prompt": " "}
    own = {"id": stored.row.deployment_id}
    await world.client.request(
        "PATCH", "/deployments/{id}", path_params=own, json={"parameters": blank}
    )
    await world.client.request("POST", "/deployments/{id}/schedule", path_params=own, json={})
    run = await world.prefect.scheduled(stored)
    assert run.parameters["prompt"] == " "

    state = await world.executions.complete(run)

    assert state.is_completed(), state
    row = await world.runs.row()
    assert (row.status, row.output) == ("succeeded", "What is new?")
    answer = await world.client.request("GET", "/deployments/{id}", path_params=own)
    assert answer.json()["parameters"]["prompt"] == "What is new?"


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"prompt": " "}, "prompt: is blank"),
        ({"prompt": 7}, "prompt: "),
        ({"policy": {"timeout": "soon"}}, 'timeout: "soon" is not a duration'),
    ],
)
async def test_a_custom_run_with_an_invalid_parameter_fails_in_the_ledger_too(
    world: PrefectWorld, given: dict[str, Any], problem: str
) -> None:
    agent = await world.agents.add("had()")
    stored = await world.deploy(on_demand=True, agent=agent.name)
    own = {"id": stored.row.deployment_id}
    # Otherwise Prefect itself refuses a wrong type.
    await world.client.request(
        "PATCH", "/deployments/{id}", path_params=own, json={"enforce_parameter_schema": False}
    )
    run = await world.prefect.custom_run(stored, **given)

    state = await world.executions.complete(run)

    assert state.is_failed()
    assert problem in str(state.message)
    row = await world.runs.row()
    assert (row.status, row.attempts, row.flow_run_id) == ("failed", 0, str(run.id))
    assert problem in str(row.error)
    assert agent.effect_count == 0


async def test_a_run_of_another_ledger_crashes_and_is_left_to_the_keeper_there(
    world: PrefectWorld,
) -> None:
    agent = await world.agents.add("had()")
    stored = await world.deploy(on_demand=True, agent=agent.name)
    own = {"id": stored.row.deployment_id}
    tags = ["daybook:anotherbook"]
    await world.client.request("PATCH", "/deployments/{id}", path_params=own, json={"tags": tags})
    try:
        state = await world.executions.complete(await world.prefect.custom_run(stored))
    finally:  # `world` deletes by its own tag only; a leftover stops later workers
        await world.client.delete_deployment(UUID(str(stored.row.deployment_id)))

    assert (state.type, state.name) == ("CRASHED", "Crashed")
    assert "set DAYBOOK_LEDGER_URL" in str(state.message)
    assert await world.runs.rows() == []
    assert agent.effect_count == 0
