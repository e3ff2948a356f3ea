"""Keeper and deliveries: the leader sends due deliveries, a standby sends none."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from prefect.client.orchestration import get_client

from daybook.keeper import deliveries, leader_lease
from daybook.keeper import leadership as leader
from daybook.keeper.keeper import Keeper
from tests.e2e.delivery.conftest import ReceiverProcess, ask, callbacks
from tests.waiting import becomes_true
from tests.world.prefect_world import PrefectWorld

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]


async def test_the_leader_sends_due_callbacks_and_retries_failed_ones(
    world: PrefectWorld, receiver: ReceiverProcess
) -> None:
    receiver.says("500")
    [id_] = await ask(world, f"{receiver.address}/hook")
    keeper = Keeper(world.ledger, leader.new_holder())
    working = asyncio.create_task(keeper.run())

    async def tried() -> bool:
        return (await callbacks(world))[id_].attempts >= 1

    async def delivered() -> bool:
        return (await callbacks(world))[id_].status == "delivered"

    try:
        assert await becomes_true(tried, 30)
        receiver.says("well")
        # The retry follows after a backoff of five seconds; the test does not move the clock.
        assert await becomes_true(delivered, 60)
        assert keeper.costs["outbox"].error == ""
    finally:
        working.cancel()
        await asyncio.wait({working})


async def test_a_standby_keeper_sends_nothing(
    world: PrefectWorld, receiver: ReceiverProcess
) -> None:
    assert (
        await leader_lease.acquire(world.ledger, leader_lease.LEADERSHIP_NAME, "there:2")
        is not None
    )
    keeper = Keeper(world.ledger, leader.new_holder())
    working = asyncio.create_task(keeper.run())

    # These services run in a standby too. If the test cancelled the keeper while they connect to
    # Prefect, the network library would leave its socket open.
    async def has_done_its_own() -> bool:
        return {"drain", "server"} <= keeper.costs.keys()

    try:
        [id_] = await ask(world, f"{receiver.address}/hook")
        assert await becomes_true(has_done_its_own, 30)
        assert "outbox" not in keeper.costs
        assert ((await callbacks(world))[id_].fence, receiver.got()) == (0, [])
    finally:
        working.cancel()
        await asyncio.wait({working})


async def test_a_cancelled_pass_keeps_the_runs_whose_delivery_prefect_has_to_show(
    world: PrefectWorld, receiver: ReceiverProcess
) -> None:
    [id_] = await ask(world, f"{receiver.address}/hook", run_id="r1")
    await ask(world, f"{receiver.address}/hang", run_id="r2")
    memory = deliveries.DeliveriesState()
    working = asyncio.create_task(deliveries.send_due(world.ledger, world.client, "here:1", memory))

    async def delivered() -> bool:
        return (await callbacks(world))[id_].status == "delivered"

    assert await becomes_true(delivered, 20)
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working
    assert list(memory.ended) == ["r1"]


async def test_a_pass_without_prefect_keeps_the_deliveries_to_show_there(
    world: PrefectWorld, receiver: ReceiverProcess
) -> None:
    await ask(world, f"{receiver.address}/hook")
    memory = deliveries.DeliveriesState()
    memory.note(["r1"])
    async with get_client() as lost:
        lost._client.base_url = httpx.URL("http://127.0.0.1:1/api/")
        assert (
            await deliveries.send_due(world.ledger, lost, "here:1", memory)
            == deliveries.UNREACHABLE_INTERVAL_SECONDS
        )
    assert list(memory.ended) == ["r1"]
    await deliveries.send_due(world.ledger, world.client, "here:1", memory)
    assert not memory.ended
