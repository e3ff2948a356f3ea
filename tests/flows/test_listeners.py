"""Listeners: a flow that a script calls notifies that script's; a run's process notifies none."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from daybook import registry
from daybook.delivery import history, listeners
from daybook.home import Home
from daybook.ledger.tables import OutboxRow
from flows.agent_prompt import agent_prompt
from tests.world.prefect_world import PrefectWorld
from tests.world.workers import PREFECT_LEAVES_A_SOCKET

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, *PREFECT_LEAVES_A_SOCKET]


@pytest.fixture(autouse=True)
def nobody_else(daybook_home: Home) -> Iterator[None]:
    with registry.isolated():
        yield


async def _deliveries(world: PrefectWorld) -> list[OutboxRow]:
    async with world.ledger.read() as session:
        return await history.list_for_run(session, (await world.runs.row()).id)


async def test_a_direct_call_notifies_its_listeners_before_the_flow_returns(
    world: PrefectWorld,
) -> None:
    agent = await world.agents.add("print('Forty-two.')")
    calls: list[tuple[dict[str, Any], bool]] = []

    @registry.listener(name="works")
    def works(run: dict[str, Any]) -> None:
        calls.append((run, threading.current_thread() is threading.main_thread()))

    @registry.listener(name="breaks")
    async def breaks(run: dict[str, Any]) -> None:
        raise ValueError("no disk")

    result: Any = await agent_prompt(prompt="What is it?", agent=agent.name)
    row = await world.runs.row()
    [(run, in_main)] = calls
    assert (run["id"], run["status"], run["output"]) == (row.id, "succeeded", "Forty-two.")
    assert not in_main
    assert (row.status, row.delivery, row.error) == ("succeeded", "not_requested", None)
    assert result["status"] == "succeeded"
    assert {(each.address, each.status, each.error) for each in await _deliveries(world)} == {
        ("works", "delivered", None),
        ("breaks", "failed", "ValueError: no disk"),
    }
    page = await world.prefect.artifact(row.flow_run_id)
    assert "listener to breaks: **failed**; ValueError: no disk" in page
    assert "works" not in page


@pytest.mark.slow
async def test_the_process_of_a_run_leaves_listeners_to_the_keeper(world: PrefectWorld) -> None:
    agent = await world.agents.add("print('Forty-two.')")
    await listeners.announce(world.ledger, ["elsewhere"])
    job = await world.deploy(agent=agent.name, on_demand=True)
    state = await world.executions.complete(await world.prefect.custom_run(job))
    assert state.is_completed()
    [delivery] = await _deliveries(world)
    assert (delivery.address, delivery.event, delivery.status, delivery.fence) == (
        "elsewhere",
        "succeeded",
        "pending",
        0,
    )
    assert "Delivery" not in await world.prefect.artifact((await world.runs.row()).flow_run_id)
