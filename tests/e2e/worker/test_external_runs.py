"""External runs: flow runs in Daybook's pool without a job run as Prefect would run them."""

from __future__ import annotations

import os
import signal
from uuid import UUID

import pytest
from prefect.client.schemas.objects import FlowRun

from daybook.clock import SYSTEM_CLOCK
from daybook.jobs import store
from daybook.prefect import states as prefect_states
from tests.waiting import becomes_true
from tests.world.agents import WORKS
from tests.world.prefect_world import PrefectWorld
from tests.world.processes import alive
from tests.world.workers import PREFECT_LEAVES_A_SOCKET, SEEN

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.slow, *PREFECT_LEAVES_A_SOCKET]

FOREIGN = """
import os, signal, subprocess, sys
from prefect import flow, task

@task
def add(a: int, b: int) -> int:
    return a + b

@flow
def foreign(pipe: str, ends: bool = True) -> int:
    with open(pipe, "a") as out:
        print(os.getpid(), os.getcwd(), file=out, flush=True)
    if not ends:
        program = [sys.executable, "-c", "import signal; signal.pause()", os.getcwd() + "/"]
        subprocess.run(program, check=True)
    return add(1, 2)

def note(hook: str, run, state) -> None:
    with open(f"{run.id} {hook}", "a") as out:
        print(run.id, state.type.value, file=out)

@foreign.on_crashed
def crashed(flow, run, state) -> None:
    note("crashed", run, state)

@foreign.on_cancellation
def cancelled(flow, run, state) -> None:
    note("cancelled", run, state)
"""


def hooks(world: PrefectWorld, run: FlowRun) -> set[str]:
    """Return the names of the run's hooks that were called."""
    found = world.foreign.folder.glob(f"{run.id} *")
    return {each.name.removeprefix(f"{run.id} ") for each in found}


async def test_an_external_run_runs_in_the_folder_of_its_deployment(working: PrefectWorld) -> None:
    agent = await working.agents.add("")
    deployment = await working.foreign.deploy(FOREIGN)
    (worker,) = working.workers.all
    run = await working.foreign.run(deployment, pipe=f"{agent.base}.pipe")
    pid, where = await agent.word()
    assert where == str(working.foreign.folder)
    await working.shows(run, "COMPLETED", within=SEEN)
    await working.workers.idle(within=SEEN)
    assert not alive(pid)
    assert worker.heads() == []
    assert hooks(working, run) == set()
    # The ledger has no claim, no lease and no outcome for it.
    assert str(run.id) not in {each.flow_run_id for each in await working.runs.rows()}


async def test_a_killed_external_run_is_crashed_and_its_hook_is_called(
    working: PrefectWorld,
) -> None:
    agent = await working.agents.add("")
    deployment = await working.foreign.deploy(FOREIGN)
    run = await working.foreign.run(deployment, pipe=f"{agent.base}.pipe", ends=False)
    pid, _ = await agent.word()
    os.kill(pid, signal.SIGKILL)
    await working.shows(run, "CRASHED", within=SEEN)
    assert await working.foreign.noted(f"{run.id} crashed") == [str(run.id), "CRASHED"]
    await working.workers.idle(within=SEEN)
    assert hooks(working, run) == {"crashed"}
    state = await working.prefect.state(run)
    assert state.message == "its process was ended by SIGKILL"


async def test_a_cancelled_external_run_ends_and_its_hook_is_called(working: PrefectWorld) -> None:
    agent = await working.agents.add("")
    deployment = await working.foreign.deploy(FOREIGN)
    (worker,) = working.workers.all
    run = await working.foreign.run(deployment, pipe=f"{agent.base}.pipe", ends=False)
    pid, _ = await agent.word()
    await working.shows(run, "RUNNING", within=SEEN)
    assert [each.pid for each in worker.heads()] == [pid]
    await working.prefect.cancel(run)

    async def has_exited() -> bool:
        return not alive(pid)

    assert await becomes_true(has_exited, SEEN)
    await working.shows(run, "CANCELLED", within=SEEN)
    assert await working.foreign.noted(f"{run.id} cancelled") == [str(run.id), "CANCELLED"]
    await working.workers.idle(within=SEEN)


async def test_a_dead_workers_external_run_is_crashed_by_the_next_of_its_name(
    working: PrefectWorld,
) -> None:
    agent = await working.agents.add("")
    deployment = await working.foreign.deploy(FOREIGN)
    worker = working.workers.all.pop()
    run = await working.foreign.run(deployment, pipe=f"{agent.base}.pipe", ends=False)
    pid, _ = await agent.word()
    await working.shows(run, "RUNNING", within=SEEN)
    os.kill(worker.pid, signal.SIGKILL)
    # No child outlives its worker.
    await working.workers.nobody(within=SEEN)
    assert not alive(pid)
    (gate,) = working.workers.gates
    await working.workers.begin(api_url=gate.api_url)  # it has the same name
    await working.shows(run, "CRASHED", within=SEEN)


async def test_an_ended_run_without_its_deployment_is_not_handled_as_external(
    working: PrefectWorld,
) -> None:
    agent = await working.agents.add(WORKS)
    job = await working.deploy(on_demand=True, agent=agent.name)
    run = await working.prefect.custom_run(job)
    agent.release()
    row = await working.wait_for_end(job, "succeeded", within=60.0)
    await working.client.delete_deployment(UUID(str(job.row.deployment_id)))

    async def known() -> bool:
        async with working.ledger.read() as session:
            return (await store.find(session, job.id)).row.deployment_id is None

    assert await becomes_true(known, SEEN), working.workers.logs()
    # Set it back, as a worker does that had fetched it before it ended.
    await working.client.set_flow_run_state(
        run.id, prefect_states.waiting_state(SYSTEM_CLOCK.now(), "late"), force=True
    )

    await working.shows(run, "COMPLETED", "Completed", within=SEEN)
    states = [each.type.value for each in await working.client.read_flow_run_states(run.id)]
    assert "CRASHED" not in states
    assert (await working.runs.row(row)).finished_at == row.finished_at
    assert agent.effect_count == 1
