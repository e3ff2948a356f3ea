"""Runs whose worker is gone: another worker of the ledger declares their leases lost.

The scenarios run concurrently, each in a home of its own and with `SHORT` timing, and each test
checks the result of one of them.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta

import pytest

from daybook.clock import SYSTEM_CLOCK
from daybook.ledger.tables import AttemptRow, RunRow
from daybook.processes import proc
from tests.conftest import PrefectServer
from tests.timings import SHORT
from tests.world.agents import FOR_EVER, WORKS
from tests.world.home import at_prefect
from tests.world.prefect_world import PrefectWorld
from tests.world.processes import alive, sqlite_is_free, stand_still
from tests.world.worker import Worker
from tests.world.workers import JUDGED, PREFECT_LEAVES_A_SOCKET, SEEN

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    *PREFECT_LEAVES_A_SOCKET,
]

STARTED = 180.0
"""Seconds until a run has begun; ten workers start at the same time, perhaps beside other tests."""

ENDED = 3 * SHORT.run_lease.total_seconds()
"""Seconds until all runs of a suspended or killed worker have ended: their processes notice its
silence after a lease, and then have a grace period."""


@dataclass
class RunRecord:
    """How a run ended, and how often its effect happened."""

    row: RunRow
    attempts: list[AttemptRow]
    effects: int


async def run_on(seconds: float) -> None:
    await SYSTEM_CLOCK.wait_until(SYSTEM_CLOCK.now() + timedelta(seconds=seconds))


async def record_of(world: PrefectWorld, row: RunRow, effects: int) -> RunRecord:
    return RunRecord(row, await world.runs.attempts(row), effects)


async def taken_over(
    world: PrefectWorld, end: Callable[[Worker], Awaitable[None]]
) -> dict[str, RunRecord]:
    """Let ``end`` end the worker of a running, a rerun and a claimed run; return their ends."""
    once, again = await world.agents.add(FOR_EVER), await world.agents.add(WORKS)
    job = await world.deploy(on_demand=True, agent=once.name)
    rerun = await world.deploy(on_demand=True, agent=again.name, on_lost="rerun", retries=2)
    before = await world.agents.add(WORKS)
    not_started = await world.deploy(on_demand=True, agent=before.name)
    gate = await world.workers.gate()
    worker = await world.workers.begin(api_url=gate.api_url)
    for each in (job, rerun):
        await world.prefect.custom_run(each)
    pids = [await each.says("running", within=STARTED) for each in (once, again)]
    gate.close_for(f'["{before.name}"]')
    await world.prefect.custom_run(not_started)
    async with asyncio.timeout(STARTED):
        await gate.held.wait()
    assert (await world.runs.row(not_started)).status == "claimed"
    left = [process for pid in pids if (process := proc.find(pid)) is not None]
    assert len(left) == 2, world.workers.logs()
    await world.workers.begin()
    began = SYSTEM_CLOCK.now()
    await end(worker)

    async def at_its_end() -> RunRecord:
        row = await world.wait_for_end(job, "unknown", within=JUDGED)
        return await record_of(world, row, once.effect_count)

    async def again_somewhere() -> RunRecord:
        await again.says("running", within=JUDGED)
        # It began after the first attempt's process was gone.
        assert not alive(pids[1])
        again.release()
        left = JUDGED + SEEN - (SYSTEM_CLOCK.now() - began).total_seconds()
        row = await world.wait_for_end(rerun, "succeeded", within=left)
        return await record_of(world, row, again.effect_count)

    async def started_elsewhere() -> RunRecord:
        before.release()
        row = await world.wait_for_end(not_started, "succeeded", within=JUDGED + SEEN)
        return await record_of(world, row, before.effect_count)

    async def all_gone() -> None:
        assert await proc.wait_gone(left, ENDED) == []

    found = await asyncio.gather(at_its_end(), again_somewhere(), started_elsewhere(), all_gone())
    return dict(zip(("running", "rerun", "claimed"), found[:3], strict=True))


async def killed(world: PrefectWorld) -> dict[str, RunRecord]:
    async def kill(worker: Worker) -> None:
        os.kill(worker.pid, signal.SIGKILL)

    return await taken_over(world, kill)


async def killed_with_its_runs(world: PrefectWorld) -> dict[str, RunRecord]:
    async def kill(worker: Worker) -> None:
        for each in (worker.pid, *(head.pid for head in worker.heads())):
            os.kill(each, signal.SIGKILL)

    return await taken_over(world, kill)


async def killed_with_its_parent(world: PrefectWorld) -> dict[str, RunRecord]:
    async def kill(worker: Worker) -> None:
        for each in (worker.parent.pid, worker.pid):
            os.kill(each, signal.SIGKILL)

    return await taken_over(world, kill)


async def stopped(world: PrefectWorld) -> dict[str, RunRecord]:
    """Suspend the worker; wake it afterwards and let it run another job."""

    async def stop(worker: Worker) -> None:
        await stand_still(worker.pid, lambda: sqlite_is_free(world.ledger.address))

    found = await taken_over(world, stop)
    first, second = world.workers.all
    await second.send_signal(signal.SIGTERM)
    assert await second.wait_for_exit(within=2 * SEEN) == 0
    os.kill(first.pid, signal.SIGCONT)
    agent = await world.agents.add(WORKS)
    job = await world.deploy(on_demand=True, agent=agent.name)
    for gate in world.workers.gates:
        gate.release()
    await world.prefect.custom_run(job)
    agent.release()
    row = await world.wait_for_end(job, "succeeded", within=2 * SEEN)
    found["after"] = await record_of(world, row, agent.effect_count)
    for name in ("running", "rerun", "claimed"):
        found[name].row = await world.runs.row(found[name].row)
    return found


async def without_the_interpreter(world: PrefectWorld) -> dict[str, RunRecord]:
    """Suspend a run's process for longer than its lease, which the worker renews."""
    agent = await world.agents.add(WORKS)
    job = await world.deploy(on_demand=True, agent=agent.name)
    worker = await world.workers.begin()
    await world.prefect.custom_run(job)
    await agent.says("running", within=STARTED)
    (head,) = worker.heads()
    os.kill(head.pid, signal.SIGSTOP)
    await run_on(2 * SHORT.run_lease.total_seconds() + 5.0)
    row = await world.runs.row(job)
    assert row.lease_until is not None
    assert row.lease_until > SYSTEM_CLOCK.now()
    os.kill(head.pid, signal.SIGCONT)
    agent.release()
    row = await world.wait_for_end(job, "succeeded", within=SEEN)
    return {"running": await record_of(world, row, agent.effect_count)}


SCENARIOS = {
    each.__name__: each
    for each in (
        killed,
        killed_with_its_runs,
        killed_with_its_parent,
        stopped,
        without_the_interpreter,
    )
}
Outcomes = dict[str, dict[str, RunRecord] | BaseException]


@pytest.fixture(scope="module")
async def outcomes(
    anyio_backend: str, prefect_server: PrefectServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Outcomes]:
    async with AsyncExitStack() as stack:
        # One after the other, because one process cannot migrate two ledgers at a time.
        roots = [tmp_path_factory.mktemp(name) for name in SCENARIOS]
        worlds = [
            await stack.enter_async_context(at_prefect(root, prefect_server, timing=SHORT))
            for root in roots
        ]
        playing = [play(world) for play, world in zip(SCENARIOS.values(), worlds, strict=True)]
        found = await asyncio.gather(*playing, return_exceptions=True)
        yield dict(zip(SCENARIOS, found, strict=True))


def of(outcomes: Outcomes, scenario: str, run: str) -> RunRecord:
    found = outcomes[scenario]
    if isinstance(found, BaseException):
        raise found
    return found[run]


@pytest.mark.parametrize(
    "scenario", ["killed", "killed_with_its_runs", "killed_with_its_parent", "stopped"]
)
class TestOfAWorker:
    """Runs of a worker that was killed or suspended."""

    def test_its_running_run_is_unknown_after_one_effect(
        self, outcomes: Outcomes, scenario: str
    ) -> None:
        run = of(outcomes, scenario, "running")
        assert run.row.status == "unknown"
        # The other worker, of the same home, sees the end of a killed one sooner than its lease's.
        has_ended = scenario != "stopped" and run.row.reason.endswith(" has ended")
        assert has_ended or "lost its lease" in run.row.reason
        assert run.effects == 1
        assert [each.status for each in run.attempts] == ["unknown"]

    def test_its_run_with_on_lost_rerun_was_repeated_once(
        self, outcomes: Outcomes, scenario: str
    ) -> None:
        run = of(outcomes, scenario, "rerun")
        assert run.row.status == "succeeded"
        assert run.effects == 2
        assert [each.status for each in run.attempts] == ["unknown", "succeeded"]

    def test_its_claimed_run_was_executed_by_another_worker(
        self, outcomes: Outcomes, scenario: str
    ) -> None:
        run = of(outcomes, scenario, "claimed")
        assert run.row.status == "succeeded"
        assert run.effects == 1
        assert [each.status for each in run.attempts] == ["succeeded"]


def test_a_suspended_worker_runs_jobs_again_after_it_wakes(outcomes: Outcomes) -> None:
    run = of(outcomes, "stopped", "after")
    assert (run.row.status, run.effects) == ("succeeded", 1)


def test_a_run_whose_process_is_suspended_keeps_its_lease(outcomes: Outcomes) -> None:
    run = of(outcomes, "without_the_interpreter", "running")
    assert (run.row.status, run.row.fence, run.effects) == ("succeeded", 1, 1)
