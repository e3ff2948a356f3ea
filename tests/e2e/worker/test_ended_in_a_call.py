"""A run whose agent is ended in the middle of a tool's call: what it took, and what it has done."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from daybook.api import runs
from tests.calling import Asked, calls
from tests.providers import provider
from tests.toolbox import install, served
from tests.world import World
from tests.world.workers import PREFECT_LEAVES_A_SOCKET, SEEN

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.slow, *PREFECT_LEAVES_A_SOCKET]

ITS_TIME = 75.0
"""Its 25 s, 15 s by which the worker waits longer, 10 s to end, and what a busy machine adds."""

HANGS = """
@server.tool
def write() -> str:
    tell("begun")
    had()
    forever()
"""


async def test_cancelled_its_tokens_are_in_the_book(world: World) -> None:
    with provider() as here:
        async with served(world, HANGS) as server:
            asked = await Asked(world, here).given(server.name)
            here.script = [calls(f"{server.name}_write")]
            job = await world.deploy(on_demand=True, agent=asked.name)
            await world.workers.begin()
            await world.prefect.custom_run(job)
            await server.says("begun")

            await runs.cancel((await world.row(job)).id)

            row = await world.ends(job, "cancelled", within=SEEN)
    assert row.usage is not None
    assert (row.usage["input_tokens"], row.usage["output_tokens"]) == (100, 20)


async def test_killed_after_its_tool_has_acted_it_is_not_asked_again(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What goes on in a thread is ended by nothing but the end of its process.
    site, had = tmp_path / "site", tmp_path / "had"
    source = (
        "import threading\n"
        "def stuck() -> str:\n"
        f"    open({str(had)!r}, 'a').write('x')\n"
        "    threading.Event().wait()\n"
    )
    install(site, source, "stuck")
    monkeypatch.setenv("PYTHONPATH", f"{site}{os.pathsep}{os.environ['PYTHONPATH']}")
    with provider() as here:
        asked = await Asked(world, here).given("stuck")
        here.script = [calls("stuck"), calls("stuck")]
        policy = {"timeout": "25s", "retries": 1, "retry_delay": "1s"}
        job = await world.deploy(on_demand=True, agent=asked.name, policy=policy)
        await world.workers.begin()

        await world.prefect.custom_run(job)

        row = await world.ends(job, "timed_out", within=ITS_TIME)
    assert (row.attempts, had.read_text()) == (1, "x")
    assert row.usage is not None
    assert row.usage["input_tokens"] == 100
