"""A run at work leaves its word when its worker is ended, whoever ends it."""

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
from tests.world import World
from tests.world.workers import PREFECT_LEAVES_A_SOCKET, alive

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.slow, *PREFECT_LEAVES_A_SOCKET]

# Deaf to SIGTERM: it is gone only when whoever runs it has killed it.
DEAF = """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
had(); tell("running"); forever()
"""


async def stopped(world: World, child: Child) -> None:
    """As `up` ends it."""
    await child.terminate()


async def left_behind(world: World, child: Child) -> None:
    """As the next `up`, or `down`, ends what a killed `up` has left."""
    with home_lock.hold(world.home) as killed:
        killed.began(child)
    with home_lock.hold(world.home) as following:
        assert await following.end_leftovers(worker.GRACE_SECONDS) == ["worker"]


@pytest.mark.parametrize("end", [stopped, left_behind])
async def test_its_run_is_unknown_and_its_program_gone(
    world: World, prefect_server: PrefectServer, end: Callable[[World, Child], Awaitable[None]]
) -> None:
    agent = await world.agents.add(DEAF)
    run = await world.prefect.custom_run(await world.deploy(on_demand=True, agent=agent.name))
    here = SelectedPrefect(prefect_server.api_url, prefect_server.ui_url)
    child = await worker.start(world.home, here)
    try:
        pid = await agent.says("running")
        family = proc.process_tree(child.process)
        assert pid in {each.pid for each in family}
        assert (await world.row()).status == "running"
        began = SYSTEM_CLOCK.now()
        await end(world, child)
        took = SYSTEM_CLOCK.now() - began
    finally:
        await child.terminate()
    said = child.log.read_text()
    assert not alive(pid), said
    assert [each for each in family if proc.find(each.pid, each.started)] == []
    row = await world.row()
    assert (row.status, row.reason) == ("unknown", "the worker was stopped"), said
    assert (await world.prefect.state(run)).is_crashed(), said
    assert agent.had == 1
    # Ten seconds to end by itself, and ten from SIGTERM to SIGKILL.
    assert took < timedelta(seconds=worker.GRACE_SECONDS)
    async with asyncio.timeout(5):
        await child.wait()
