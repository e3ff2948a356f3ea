"""A running run whose worker is ended, by its own `up` or by a later command."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest

from daybook.clock import SYSTEM_CLOCK
from daybook.operations import home_lock, worker
from daybook.operations.prefect_selection import SelectedPrefect
from daybook.processes import proc
from daybook.processes.children import Child
from tests.conftest import PrefectServer
from tests.world.prefect_world import PrefectWorld
from tests.world.processes import alive
from tests.world.workers import PREFECT_LEAVES_A_SOCKET

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.slow, *PREFECT_LEAVES_A_SOCKET]

# Ignores SIGTERM, so it ends only when its supervisor kills it.
DEAF = """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
had(); tell("running"); forever()
"""


async def stopped(world: PrefectWorld, child: Child) -> None:
    """End the worker as `up` does."""
    await child.terminate()


async def left_behind(world: PrefectWorld, child: Child) -> None:
    """End the worker as the next `up`, or `down`, ends the leftovers of a killed `up`."""
    with home_lock.hold(world.home) as killed:
        killed.add_child(child)
    with home_lock.hold(world.home) as following:
        assert await following.end_leftovers(worker.GRACE_SECONDS) == ["worker"]


@pytest.mark.parametrize("end", [stopped, left_behind])
async def test_ending_a_worker_makes_its_run_unknown_and_ends_the_program(
    world: PrefectWorld,
    prefect_server: PrefectServer,
    end: Callable[[PrefectWorld, Child], Awaitable[None]],
) -> None:
    agent = await world.agents.add(DEAF)
    run = await world.prefect.custom_run(await world.deploy(on_demand=True, agent=agent.name))
    selected = SelectedPrefect(prefect_server.api_url, prefect_server.ui_url)
    child = await worker.start(world.home, selected)
    try:
        pid = await agent.says("running")
        family = proc.process_tree(child.process)
        assert pid in {each.pid for each in family}
        assert (await world.runs.row()).status == "running"
        began = SYSTEM_CLOCK.now()
        await end(world, child)
        duration = SYSTEM_CLOCK.now() - began
    finally:
        await child.terminate()
    log = child.log.read_text()
    assert not alive(pid), log
    assert [each for each in family if proc.find(each.pid, each.started)] == []
    row = await world.runs.row()
    assert (row.status, row.reason) == ("unknown", "the worker was stopped"), log
    assert (await world.prefect.state(run)).is_crashed(), log
    assert agent.effect_count == 1
    # The worker has ten seconds to end by itself, and ten from SIGTERM to SIGKILL.
    assert duration < timedelta(seconds=worker.GRACE_SECONDS)
    async with asyncio.timeout(5):
        await child.wait()
