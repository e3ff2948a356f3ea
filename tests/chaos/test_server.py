"""`kill -9` of the Prefect server in mid-run: a server of this test's own."""

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
from tests.world import at_prefect
from tests.world.agents import WORKS
from tests.world.workers import JUDGED, PREFECT_LEAVES_A_SOCKET, SEEN

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.timeout(400),
    *PREFECT_LEAVES_A_SOCKET,
]


async def begun(home: Home, port: int) -> Child:
    child = await server.start(migrate(home), port)
    await server.wait_until_healthy(server.api_url(port), child=child)
    return child


async def test_the_run_goes_on_and_its_end_is_shown_when_the_server_is_back(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    home, port = Home(tmp_path_factory.mktemp("server")), free_port()
    child = await begun(home, port)
    here = SelectedPrefect(server.api_url(port), server.ui_url(port))
    try:
        with temporary_settings({PREFECT_API_URL: here.api_url}):
            async with at_prefect(tmp_path, here, timing=SHORT) as world:
                agent = await world.agents.add(WORKS)
                job = await world.deploy(on_demand=True, agent=agent.name)
                worker = await world.workers.begin()
                await world.prefect.custom_run(job)
                await agent.says("running")
                os.kill(child.pid, signal.SIGKILL)
                await child.wait()
                agent.let_go()
                # The ledger needs no Prefect.
                await world.becomes(job, "succeeded", within=SEEN)
                child = await begun(home, port)
                row = await world.ends(job, "succeeded", within=JUDGED)
                assert row.output == "done"
                assert agent.had == row.attempts == 1
                await world.workers.idle(within=JUDGED)
                # The same worker takes what comes now.
                following = await world.deploy(on_demand=True, agent=agent.name)
                await world.prefect.custom_run(following)
                agent.let_go()
                await world.ends(following, "succeeded", within=JUDGED)
                assert worker.child.exit_code is None
                assert agent.had == 2
    finally:
        await child.terminate()
