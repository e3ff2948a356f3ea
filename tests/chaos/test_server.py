"""`kill -9` of the Prefect server during a run, with a server of the test's own."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from daybook.home import Home
from daybook.operations import server
from daybook.operations.prefect_selection import SelectedPrefect
from daybook.processes.children import Child
from tests.servers import free_port, migrate
from tests.timings import SHORT
from tests.world.agents import WORKS
from tests.world.home import at_prefect
from tests.world.workers import JUDGED, PREFECT_LEAVES_A_SOCKET, SEEN

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.timeout(400),
    *PREFECT_LEAVES_A_SOCKET,
]


async def start_server(home: Home, port: int) -> Child:
    child = await server.start(migrate(home), port)
    await server.wait_until_healthy(server.api_url(port), child=child)
    return child


async def test_a_run_continues_without_prefect_and_its_end_is_mirrored_later(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    home, port = Home(tmp_path_factory.mktemp("server")), free_port()
    child = await start_server(home, port)
    selected = SelectedPrefect(server.api_url(port), server.ui_url(port))
    try:
        with temporary_settings({PREFECT_API_URL: selected.api_url}):
            async with at_prefect(tmp_path, selected, timing=SHORT) as world:
                agent = await world.agents.add(WORKS)
                job = await world.deploy(on_demand=True, agent=agent.name)
                worker = await world.workers.begin()
                await world.prefect.custom_run(job)
                await agent.says("running")
                os.kill(child.pid, signal.SIGKILL)
                await child.wait()
                agent.release()
                # The ledger records the outcome without Prefect.
                await world.wait_for_status(job, "succeeded", within=SEEN)
                child = await start_server(home, port)
                row = await world.wait_for_end(job, "succeeded", within=JUDGED)
                assert row.output == "done"
                assert agent.effect_count == row.attempts == 1
                await world.workers.idle(within=JUDGED)
                # The same worker executes further runs.
                following = await world.deploy(on_demand=True, agent=agent.name)
                await world.prefect.custom_run(following)
                agent.release()
                await world.wait_for_end(following, "succeeded", within=JUDGED)
                assert worker.child.exit_code is None
                assert agent.effect_count == 2
    finally:
        await child.terminate()
