"""Runs that end in the middle of a tool's call: their tokens and their attempts."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from daybook.api import runs
from daybook.timing import TIMING
from tests.calling import ModelAgent, calls
from tests.conftest import PrefectServer
from tests.providers import provider
from tests.toolbox import install, served
from tests.world.home import with_worker
from tests.world.prefect_world import PrefectWorld
from tests.world.workers import PREFECT_LEAVES_A_SOCKET, SEEN

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.slow, *PREFECT_LEAVES_A_SOCKET]

SOON_KILLED = replace(TIMING, timeout_margin=timedelta(seconds=6), stop_grace=timedelta(seconds=3))
ITS_TIME = 15.0 + 6.0 + 3.0 + SEEN
"""The longest timeout, the margin and the grace period, and 20 s for a busy machine."""

# Only the end of its process ends a thread.
STUCK = """
import threading
def stuck_call() -> str:
    open({path!r}, "a").write("x")
    threading.Event().wait()
def stuck_check() -> bool:
    return threading.Event().wait()
"""

HANGS = """
@server.tool
def write() -> str:
    tell("started")
    had()
    forever()
"""


@pytest.fixture(scope="module")
def effects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file to which each call of the tool `stuck_call` adds a character."""
    return tmp_path_factory.mktemp("effects") / "had"


@pytest.fixture(scope="module")
async def module_world(
    anyio_backend: str,
    prefect_server: PrefectServer,
    effects: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[PrefectWorld]:
    """Yield a home with one worker, in whose environment the tools of `STUCK` are installed."""
    site = tmp_path_factory.mktemp("site")
    install(site, STUCK.format(path=str(effects)), "stuck_call", "stuck_check")
    root = tmp_path_factory.mktemp("working")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{site}{os.pathsep}{os.environ['PYTHONPATH']}")
        async with with_worker(root, prefect_server, SOON_KILLED) as world:
            yield world


async def test_a_run_cancelled_in_a_tool_call_records_its_tokens(working: PrefectWorld) -> None:
    with provider() as fake_provider:
        async with served(working, HANGS) as server:
            model_agent = await ModelAgent(working, fake_provider).given(server.name)
            fake_provider.script = [calls(f"{server.name}_write")]
            job = await working.deploy(on_demand=True, agent=model_agent.name)
            await working.prefect.custom_run(job)
            await server.says("started")

            await runs.cancel((await working.runs.row(job)).id)

            row = await working.wait_for_end(job, "cancelled", within=SEEN)
    assert row.usage is not None
    assert (row.usage["input_tokens"], row.usage["output_tokens"]) == (100, 20)


async def test_a_run_killed_after_its_tool_acted_has_no_further_attempt(
    working: PrefectWorld, effects: Path
) -> None:
    """A run whose check does not end is killed too; both wait for their timeouts concurrently."""
    await asyncio.gather(_stuck_call(working), _stuck_check(working))
    assert (await asyncio.to_thread(effects.read_text)) == "x"


async def _stuck_call(world: PrefectWorld) -> None:
    with provider() as fake_provider:
        model_agent = await ModelAgent(world, fake_provider).given("stuck_call")
        fake_provider.script = [calls("stuck_call"), calls("stuck_call")]
        policy = {"timeout": "15s", "retries": 1, "retry_delay": "1s"}
        job = await world.deploy(agent=model_agent.name, policy=policy)

        await world.prefect.custom_run(job)

        row = await world.wait_for_end(job, "timed_out", within=ITS_TIME)
    assert row.attempts == 1
    assert row.usage is not None
    assert row.usage["input_tokens"] == 100


async def _stuck_check(world: PrefectWorld) -> None:
    main = await world.agents.add("had()")
    policy = {"check": {"tool": "stuck_check"}, "timeout": "1s"}
    job = await world.deploy(agent=main.name, policy=policy)

    await world.prefect.custom_run(job)

    row = await world.wait_for_end(job, "timed_out", within=ITS_TIME)
    assert (row.attempts, main.effect_count) == (0, 0)
    assert "did not end within 1s" in str(row.error)
