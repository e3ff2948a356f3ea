"""Runs that end in the middle of an agent's tool call: their tokens and their attempts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from daybook.api import runs
from tests.calling import ModelAgent, calls
from tests.providers import provider
from tests.toolbox import install, served
from tests.world.prefect_world import PrefectWorld
from tests.world.workers import PREFECT_LEAVES_A_SOCKET, SEEN

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.slow, *PREFECT_LEAVES_A_SOCKET]

ITS_TIME = 75.0
"""Its timeout of 25 s, the worker's extra 15 s, 10 s to end, and a margin for a busy machine."""

HANGS = """
@server.tool
def write() -> str:
    tell("started")
    had()
    forever()
"""


async def test_a_run_cancelled_in_a_tool_call_records_its_tokens(world: PrefectWorld) -> None:
    with provider() as fake_provider:
        async with served(world, HANGS) as server:
            model_agent = await ModelAgent(world, fake_provider).given(server.name)
            fake_provider.script = [calls(f"{server.name}_write")]
            job = await world.deploy(on_demand=True, agent=model_agent.name)
            await world.workers.begin()
            await world.prefect.custom_run(job)
            await server.says("started")

            await runs.cancel((await world.runs.row(job)).id)

            row = await world.wait_for_end(job, "cancelled", within=SEEN)
    assert row.usage is not None
    assert (row.usage["input_tokens"], row.usage["output_tokens"]) == (100, 20)


async def test_a_run_killed_after_its_tool_acted_has_no_further_attempt(
    world: PrefectWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Only the end of its process ends a thread.
    site, effects = tmp_path / "site", tmp_path / "had"
    source = (
        "import threading\n"
        "def stuck() -> str:\n"
        f"    open({str(effects)!r}, 'a').write('x')\n"
        "    threading.Event().wait()\n"
    )
    install(site, source, "stuck")
    monkeypatch.setenv("PYTHONPATH", f"{site}{os.pathsep}{os.environ['PYTHONPATH']}")
    with provider() as fake_provider:
        model_agent = await ModelAgent(world, fake_provider).given("stuck")
        fake_provider.script = [calls("stuck"), calls("stuck")]
        policy = {"timeout": "25s", "retries": 1, "retry_delay": "1s"}
        job = await world.deploy(on_demand=True, agent=model_agent.name, policy=policy)
        await world.workers.begin()

        await world.prefect.custom_run(job)

        row = await world.wait_for_end(job, "timed_out", within=ITS_TIME)
    assert (row.attempts, effects.read_text()) == (1, "x")
    assert row.usage is not None
    assert row.usage["input_tokens"] == 100
