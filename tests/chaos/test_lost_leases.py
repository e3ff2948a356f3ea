"""Whose worker is gone: its runs are judged by their leases, by another worker of the ledger.

The scenarios run side by side, each in a home of its own and with `SHORT` times, and each test
looks at what came of one of them.
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
from tests.world import World, at_prefect
from tests.world.agents import FOR_EVER, WORKS
from tests.world.workers import (
    JUDGED,
    PREFECT_LEAVES_A_SOCKET,
    SEEN,
    Worker,
    alive,
    sqlite_is_free,
    stand_still,
)

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.timeout(400),
    *PREFECT_LEAVES_A_SOCKET,
]

ENDED = 3 * SHORT.run_lease.total_seconds()
"""Seconds after which nothing of a worker's runs is left that was stopped or killed: its silence is
noticed after a lease, and a process has a grace to end."""


@dataclass
class Seen:
    """How a run ended, and how often its effect was had."""

    row: RunRow
    attempts: list[AttemptRow]
    effects: int


async def run_on(seconds: float) -> None:
    await SYSTEM_CLOCK.wait_until(SYSTEM_CLOCK.now() + timedelta(seconds=seconds))


async def seen(world: World, row: RunRow, effects: int) -> Seen:
    return Seen(row, await world.attempts(row), effects)


async def taken_over(world: World, end: Callable[[Worker], Awaitable[None]]) -> dict[str, Seen]:
    """Three runs of a worker that ``end`` ends: at work, at work and to be run again, claimed."""
    once, again = await world.agents.add(FOR_EVER), await world.agents.add(WORKS)
    job = await world.deploy(on_demand=True, agent=once.name)
    rerun = await world.deploy(on_demand=True, agent=again.name, on_lost="rerun", retries=2)
    before = await world.agents.add(WORKS)
    not_begun = await world.deploy(on_demand=True, agent=before.name)
    gate = await world.workers.gate()
    worker = await world.workers.begin(api_url=gate.api_url)
    for each in (job, rerun):
        await world.prefect.custom_run(each)
    pids = [await once.says("running"), await again.says("running")]
    gate.close_for(f"/name/{before.name}")
    await world.prefect.custom_run(not_begun)
    async with asyncio.timeout(30):
        await gate.held.wait()
    assert (await world.row(not_begun)).status == "claimed"
    left = [process for pid in pids if (process := proc.find(pid)) is not None]
    assert len(left) == 2
    await world.workers.begin()
    began = SYSTEM_CLOCK.now()
    await end(worker)

    async def at_its_end() -> Seen:
        row = await world.ends(job, "unknown", within=JUDGED)
        return await seen(world, row, once.had)

    async def again_somewhere() -> Seen:
        await again.says("running", within=JUDGED)
        # Not before the first one was gone.
        assert not alive(pids[1])
        again.let_go()
        left = JUDGED + SEEN - (SYSTEM_CLOCK.now() - began).total_seconds()
        row = await world.ends(rerun, "succeeded", within=left)
        return await seen(world, row, again.had)

    async def begun_elsewhere() -> Seen:
        before.let_go()
        row = await world.ends(not_begun, "succeeded", within=JUDGED + SEEN)
        return await seen(world, row, before.had)

    async def all_gone() -> None:
        assert await proc.wait_gone(left, ENDED) == []

    found = await asyncio.gather(at_its_end(), again_somewhere(), begun_elsewhere(), all_gone())
    return dict(zip(("running", "rerun", "claimed"), found[:3], strict=True))


async def killed(world: World) -> dict[str, Seen]:
    async def kill(worker: Worker) -> None:
        os.kill(worker.pid, signal.SIGKILL)

    return await taken_over(world, kill)


async def killed_with_its_runs(world: World) -> dict[str, Seen]:
    async def kill(worker: Worker) -> None:
        for each in (worker.pid, *(head.pid for head in worker.heads())):
            os.kill(each, signal.SIGKILL)

    return await taken_over(world, kill)


async def killed_with_its_parent(world: World) -> dict[str, Seen]:
    async def kill(worker: Worker) -> None:
        for each in (worker.parent.pid, worker.pid):
            os.kill(each, signal.SIGKILL)

    return await taken_over(world, kill)


async def stopped(world: World) -> dict[str, Seen]:
    """Afterwards it wakes, and works again."""

    async def stop(worker: Worker) -> None:
        await stand_still(worker.pid, lambda: sqlite_is_free(world.ledger.address))

    found = await taken_over(world, stop)
    first, second = world.workers.all
    await second.told(signal.SIGTERM)
    assert await second.ends(within=2 * SEEN) == 0
    os.kill(first.pid, signal.SIGCONT)
    agent = await world.agents.add(WORKS)
    job = await world.deploy(on_demand=True, agent=agent.name)
    for gate in world.workers.gates:
        gate.let_go()
    await world.prefect.custom_run(job)
    agent.let_go()
    row = await world.ends(job, "succeeded", within=2 * SEEN)
    found["after"] = await seen(world, row, agent.had)
    for name in ("running", "rerun", "claimed"):
        found[name].row = await world.row(found[name].row)
    return found


async def without_the_interpreter(world: World) -> dict[str, Seen]:
    """A run's process that does nothing for longer than its lease; its worker renews that."""
    agent = await world.agents.add(WORKS)
    job = await world.deploy(on_demand=True, agent=agent.name)
    worker = await world.workers.begin()
    await world.prefect.custom_run(job)
    await agent.says("running")
    (head,) = worker.heads()
    os.kill(head.pid, signal.SIGSTOP)
    await run_on(2 * SHORT.run_lease.total_seconds() + 5.0)
    row = await world.row(job)
    assert row.lease_until is not None
    assert row.lease_until > SYSTEM_CLOCK.now()
    os.kill(head.pid, signal.SIGCONT)
    agent.let_go()
    row = await world.ends(job, "succeeded", within=SEEN)
    return {"running": await seen(world, row, agent.had)}


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
Outcomes = dict[str, dict[str, Seen] | BaseException]


@pytest.fixture(scope="module")
async def outcomes(
    anyio_backend: str, prefect_server: PrefectServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Outcomes]:
    async with AsyncExitStack() as stack:
        # One after the other: migrations are not for two ledgers at a time in one process.
        roots = [tmp_path_factory.mktemp(name) for name in SCENARIOS]
        worlds = [
            await stack.enter_async_context(at_prefect(root, prefect_server, timing=SHORT))
            for root in roots
        ]
        playing = [play(world) for play, world in zip(SCENARIOS.values(), worlds, strict=True)]
        found = await asyncio.gather(*playing, return_exceptions=True)
        yield dict(zip(SCENARIOS, found, strict=True))


def of(outcomes: Outcomes, scenario: str, run: str) -> Seen:
    found = outcomes[scenario]
    if isinstance(found, BaseException):
        raise found
    return found[run]


@pytest.mark.parametrize(
    "scenario", ["killed", "killed_with_its_runs", "killed_with_its_parent", "stopped"]
)
class TestOfAWorker:
    """That is gone, killed or stopped."""

    def test_what_was_at_work_is_unknown(self, outcomes: Outcomes, scenario: str) -> None:
        run = of(outcomes, scenario, "running")
        assert run.row.status == "unknown"
        assert "the lease of" in run.row.reason
        assert run.effects == 1
        assert [each.status for each in run.attempts] == ["unknown"]

    def test_what_may_be_repeated_was_once(self, outcomes: Outcomes, scenario: str) -> None:
        run = of(outcomes, scenario, "rerun")
        assert run.row.status == "succeeded"
        assert run.effects == 2
        assert [each.status for each in run.attempts] == ["unknown", "succeeded"]

    def test_what_had_not_begun_was_begun_elsewhere(
        self, outcomes: Outcomes, scenario: str
    ) -> None:
        run = of(outcomes, scenario, "claimed")
        assert run.row.status == "succeeded"
        assert run.effects == 1
        assert [each.status for each in run.attempts] == ["succeeded"]


def test_a_worker_that_was_stopped_works_again(outcomes: Outcomes) -> None:
    run = of(outcomes, "stopped", "after")
    assert (run.row.status, run.effects) == ("succeeded", 1)


def test_a_process_that_holds_the_interpreter_keeps_its_lease(outcomes: Outcomes) -> None:
    run = of(outcomes, "without_the_interpreter", "running")
    assert (run.row.status, run.row.fence, run.effects) == ("succeeded", 1, 1)
