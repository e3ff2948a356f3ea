"""Tool calls with a real worker: all processes of a tool end with its run."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from daybook.api import runs
from daybook.jobs.store import StoredJob
from daybook.timing import TIMING
from tests.conftest import PrefectServer
from tests.toolbox import served
from tests.world.agents import Agent
from tests.world.home import with_worker
from tests.world.prefect_world import PrefectWorld
from tests.world.processes import alive
from tests.world.workers import CANCELLED, PREFECT_LEAVES_A_SOCKET, SEEN

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.slow, *PREFECT_LEAVES_A_SOCKET]

FOR_EVER = """
@server.tool
def reindex() -> None:
    had(); tell(str(start_child())); forever()
"""
ONCE_CUT = """
@server.tool
def reindex() -> str:
    had()
    if len(open(sys.argv[1] + ".effects").readlines()) == 1:
        os._exit(1)
    return "at last"
"""


GRACE = replace(TIMING, stop_grace=timedelta(seconds=3))
"""Some tools ignore SIGTERM."""


@pytest.fixture(scope="module")
async def module_world(
    anyio_backend: str, prefect_server: PrefectServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[PrefectWorld]:
    """Yield a home with one worker, which ends processes soon."""
    async with with_worker(tmp_path_factory.mktemp("working"), prefect_server, GRACE) as world:
        yield world


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


async def job(world: PrefectWorld, tool: str, **fields: Any) -> StoredJob:
    return await world.deploy(prompt=None, tool=tool, on_demand=True, **fields)


async def at_work(world: PrefectWorld, server: Agent, stored: StoredJob) -> list[int]:
    """Start a run and wait until its tool works; return the pids of the server and its child."""
    await world.prefect.custom_run(stored)
    pid, child = await server.word()
    await world.wait_for_status(stored, "running")
    return [pid, int(child)]


async def test_a_worker_calls_and_ends_a_stdio_tool_server(
    world: PrefectWorld, stack: AsyncExitStack
) -> None:
    source = """
@server.tool
def reindex(full: bool) -> int:
    tell(str(start_child()))
    return os.getpid()
"""
    server = await stack.enter_async_context(served(world, source))
    stored = await job(world, f"{server.name}.reindex", params={"full": True})
    await world.workers.begin()

    await world.prefect.custom_run(stored)

    pid, child = await server.word()
    row = await world.wait_for_end(stored, "succeeded", within=SEEN)
    assert row.output == str(pid)
    assert not alive(pid)
    assert not alive(int(child))


async def test_a_cancelled_run_ends_its_tool_server_and_the_servers_child(
    working: PrefectWorld, stack: AsyncExitStack
) -> None:
    """Cancel one run with `daybook cancel` and one in the UI, within the promised time."""
    servers = [await stack.enter_async_context(served(working, FOR_EVER)) for _ in range(2)]
    jobs = [await job(working, f"{each.name}.reindex") for each in servers]
    pids = [
        pid
        for server, stored in zip(servers, jobs, strict=True)
        for pid in await at_work(working, server, stored)
    ]
    assert all(map(alive, pids))
    rows = [await working.runs.row(stored) for stored in jobs]

    await asyncio.gather(
        runs.cancel(rows[0].id),
        working.prefect.cancel(rows[1].flow_run_id),
        working.workers.idle(within=CANCELLED + SEEN),  # it is killed after its grace period
        *(working.wait_for_end(stored, "cancelled", within=SEEN) for stored in jobs),
    )

    assert not any(map(alive, pids))
    assert [each.effect_count for each in servers] == [1, 1]


async def test_a_tool_call_that_times_out_is_unknown_and_its_server_ends(
    working: PrefectWorld, stack: AsyncExitStack
) -> None:
    server = await stack.enter_async_context(served(working, FOR_EVER))
    stored = await job(working, f"{server.name}.reindex", timeout="10s", retries=3)

    pids = await at_work(working, server, stored)

    row = await working.wait_for_end(stored, "unknown", within=10.0 + SEEN)
    await working.workers.idle(within=SEEN)
    assert not any(map(alive, pids))
    assert (row.attempts, server.effect_count) == (1, 1)


async def test_a_tool_server_ends_if_its_runs_process_is_killed(
    working: PrefectWorld, stack: AsyncExitStack
) -> None:
    server = await stack.enter_async_context(served(working, FOR_EVER))
    stored = await job(working, f"{server.name}.reindex", retries=3)
    (worker,) = working.workers.all
    pids = await at_work(working, server, stored)

    (head,) = worker.heads()
    os.kill(head.pid, signal.SIGKILL)

    row = await working.wait_for_end(stored, "unknown", within=SEEN)
    await working.workers.idle(within=SEEN)
    assert not any(map(alive, pids))
    assert (row.attempts, server.effect_count) == (1, 1)


@pytest.mark.parametrize(
    ("policy", "status", "effects"),
    [
        ({"retries": 3}, "unknown", 1),
        ({"retries": 0, "idempotent": True}, "failed", 1),
        ({"retries": 1, "idempotent": True}, "succeeded", 2),
    ],
    ids=["unknown", "no-retry-left", "idempotent"],
)
async def test_a_call_whose_server_ends_is_retried_only_if_idempotent(
    working: PrefectWorld, stack: AsyncExitStack, policy: dict[str, Any], status: str, effects: int
) -> None:
    server = await stack.enter_async_context(served(working, ONCE_CUT))
    stored = await job(working, f"{server.name}.reindex", retry_delay="1s", **policy)

    await working.prefect.custom_run(stored)

    row = await working.wait_for_end(stored, status, within=2 * SEEN)
    assert (row.attempts, server.effect_count) == (effects, effects)
