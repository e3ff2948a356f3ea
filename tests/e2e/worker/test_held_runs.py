"""Runs that the only worker holds, due in Prefect: two are cancelled there, and it is killed."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from prefect.client.schemas.filters import FlowRunFilter

from daybook.prefect.states import WAITING_NAME
from tests.conftest import PrefectServer
from tests.timings import SHORT
from tests.waiting import becomes_true
from tests.world.agents import WORKS, Agent
from tests.world.home import at_prefect
from tests.world.prefect_world import PrefectWorld
from tests.world.workers import JUDGED, PREFECT_LEAVES_A_SOCKET, SEEN

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.slow, *PREFECT_LEAVES_A_SOCKET]

JOBS, SLOTS, HELD = 40, 2, 6


@pytest.fixture
async def world(
    prefect_server: PrefectServer, daybook_home: Any, tmp_path: Path
) -> AsyncIterator[PrefectWorld]:
    async with at_prefect(tmp_path, prefect_server, timing=SHORT) as world:
        yield world


async def not_shown(world: PrefectWorld) -> set[str]:
    """Return the flow runs that wait for a slot in the ledger, and not in Prefect."""
    rows = [row for row in await world.runs.rows() if row.status == "waiting"]
    ids = [row.flow_run_id for row in rows if row.waits_for == "slot"]
    flow_run_filter = FlowRunFilter.model_validate({"id": {"any_": ids}})
    found = await world.client.read_flow_runs(flow_run_filter=flow_run_filter)
    return {str(each.id) for each in found if each.state and each.state.name != WAITING_NAME}


async def until_runs_are_held(world: PrefectWorld, agent: Agent) -> list[str]:
    """Let runs end and others start until the worker holds `HELD` runs; return these."""
    before = set[str]()
    for _ in range(JOBS - SLOTS - HELD):
        agent.release()
        await agent.says("running")
        now = await not_shown(world)
        # A run that is not held is shown as waiting before the next one has started.
        if len(held := before & now) >= HELD:
            return sorted(held)
        before = now
    raise AssertionError(world.workers.logs())


@pytest.mark.timeout(600)
async def test_held_runs_whose_worker_is_killed_start_once_and_cancelled_ones_never(
    world: PrefectWorld,
) -> None:
    agent = await world.agents.add(WORKS)
    # A run that cancels another one claims at once, even if it has to wait.
    fields = {"agent": agent.name, "session": "new", "overlap": "cancel_running"}
    jobs = [await world.deploy(**fields) for _ in range(JOBS)]
    worker = await world.workers.begin(most=SLOTS)
    for job in jobs:
        await world.prefect.custom_run(job)
    for _ in range(SLOTS):
        await agent.says("running")
    held = await until_runs_are_held(world, agent)
    cancelled = held[:2]
    for each in cancelled:
        await world.prefect.cancel(each)
    os.kill(worker.pid, signal.SIGKILL)
    await worker.wait_for_exit(10.0)

    agent.release(2 * JOBS)
    await world.workers.begin(most=SLOTS)

    async def all_ended() -> bool:
        rows = await world.runs.rows()
        return len(rows) == JOBS and all(row.finished_at is not None for row in rows)

    assert await becomes_true(all_ended, JUDGED + SEEN), world.workers.logs()
    rows = {str(row.flow_run_id): row for row in await world.runs.rows()}
    ends = {each: rows.pop(each) for each in cancelled}
    assert {(row.status, row.attempts) for row in ends.values()} == {("cancelled", 0)}
    # The runs that the killed worker had begun may have ended with it.
    lost = [row for row in rows.values() if row.status == "unknown"]
    assert len(lost) <= SLOTS
    assert {row.status for row in rows.values()} <= {"succeeded", "unknown"}
    assert {row.attempts for row in rows.values()} == {1}
    assert agent.effect_count == len(rows)
    for row in [*rows.values(), *ends.values()]:
        await world.wait_for_end(row, row.status, within=SEEN)
