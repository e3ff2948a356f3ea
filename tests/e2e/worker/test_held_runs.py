"""Runs that workers hold, due in Prefect: two are cancelled there, and a worker is killed."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from prefect.client.schemas.filters import FlowRunFilter

from daybook.ledger.states import TERMINAL
from daybook.prefect.states import WAITING_NAME
from tests.conftest import PrefectServer
from tests.timings import SHORT
from tests.waiting import becomes_true
from tests.world.home import at_prefect
from tests.world.prefect_world import PrefectWorld
from tests.world.workers import JUDGED, PREFECT_LEAVES_A_SOCKET, SEEN

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.slow, *PREFECT_LEAVES_A_SOCKET]

JOBS, SLOTS, HELD = 60, 4, 6
ENDS_AT_ONCE = 'had(); print("done")\n'


@pytest.fixture
async def world(
    prefect_server: PrefectServer, daybook_home: Any, tmp_path: Path
) -> AsyncIterator[PrefectWorld]:
    async with at_prefect(tmp_path, prefect_server, timing=SHORT) as world:
        yield world


async def until_ended(world: PrefectWorld, count: int, within: float) -> None:
    """Wait until so many runs have ended."""

    async def have_ended() -> bool:
        rows = await world.runs.rows()
        return sum(row.state in TERMINAL for row in rows) >= count

    assert await becomes_true(have_ended, within), world.workers.logs()


async def not_shown(world: PrefectWorld) -> set[str]:
    """Return the flow runs that wait for a slot in the ledger, and not in Prefect."""
    rows = [row for row in await world.runs.rows() if row.status == "waiting"]
    ids = [row.flow_run_id for row in rows if row.waits_for == "slot"]
    flow_run_filter = FlowRunFilter.model_validate({"id": {"any_": ids}})
    found = await world.client.read_flow_runs(flow_run_filter=flow_run_filter)
    return {str(each.id) for each in found if each.state and each.state.name != WAITING_NAME}


async def add_due_runs(world: PrefectWorld, agent: str) -> None:
    # A run that cancels another one claims at once, even if it has to wait.
    fields = {"agent": agent, "session": "new", "overlap": "cancel_running"}
    for job in [await world.deploy(**fields) for _ in range(JOBS)]:
        await world.prefect.custom_run(job)


async def until_held(world: PrefectWorld) -> list[str]:
    """Wait until a third of the runs have ended, and return the runs that are held then."""
    await until_ended(world, JOBS // 10, within=60.0)
    before = await not_shown(world)
    # Runs that are not held are shown as waiting before so many others have started.
    await until_ended(world, JOBS // 3, within=120.0)
    held = sorted(before & await not_shown(world))
    assert len(held) >= HELD, world.workers.logs()
    return held


@pytest.mark.timeout(600)
@pytest.mark.parametrize("workers", [1, 2])
async def test_held_runs_whose_worker_is_killed_start_once_and_cancelled_ones_never(
    world: PrefectWorld, workers: int
) -> None:
    """If there is a second worker, it goes on with them; otherwise a new one does."""
    agent = await world.agents.add(ENDS_AT_ONCE)
    killed, *_ = [await world.workers.begin(most=SLOTS) for _ in range(workers)]
    await add_due_runs(world, agent.name)
    cancelled = (await until_held(world))[-2:]
    for each in cancelled:
        await world.prefect.cancel(each)
    os.kill(killed.pid, signal.SIGKILL)
    await killed.wait_for_exit(10.0)
    if workers == 1:
        await world.workers.begin(most=SLOTS)

    await until_ended(world, JOBS, within=JUDGED + JOBS)
    rows = {str(row.flow_run_id): row for row in await world.runs.rows()}
    assert len(rows) == JOBS
    ends = {each: rows.pop(each) for each in cancelled}
    assert {(row.status, row.attempts) for row in ends.values()} == {("cancelled", 0)}
    # The runs that the killed worker had begun may have ended with it.
    lost = [row for row in rows.values() if row.status == "unknown"]
    assert len(lost) <= SLOTS
    assert {row.status for row in rows.values()} <= {"succeeded", "unknown"}
    assert {row.attempts for row in rows.values()} == {1}
    assert len(rows) - len(lost) <= agent.effect_count <= len(rows)
    for row in [*rows.values(), *ends.values()]:
        await world.wait_for_end(row, row.status, within=SEEN)
