"""External runs: flow runs in Daybook's pool without a job run as Prefect would run them."""

from __future__ import annotations

import os
import signal
from typing import Any
from uuid import UUID

import pytest
from prefect.client.schemas.objects import FlowRun, State
from prefect.exceptions import ObjectNotFound
from prefect.states import Completed, Pending, Running, Scheduled

from daybook.clock import SYSTEM_CLOCK
from daybook.jobs import store
from daybook.prefect import projection
from daybook.prefect import states as prefect_states
from daybook.worker import external_runs
from daybook.worker.dispatcher import Dispatcher
from daybook.worker.messages import ProcessSpec
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
    with open(hook, "a") as out:
        print(run.id, state.type.value, file=out)

@foreign.on_crashed
def crashed(flow, run, state) -> None:
    note("crashed", run, state)

@foreign.on_cancellation
def cancelled(flow, run, state) -> None:
    note("cancelled", run, state)
"""


def hooks(world: PrefectWorld) -> set[str]:
    """Return the names of the hooks that were called."""
    return {each.name for each in world.foreign.folder.iterdir()} & {"crashed", "cancelled"}


async def test_an_external_run_runs_in_the_folder_of_its_deployment(world: PrefectWorld) -> None:
    agent = await world.agents.add("")
    deployment = await world.foreign.deploy(FOREIGN)
    worker = await world.workers.begin()
    run = await world.foreign.run(deployment, pipe=f"{agent.base}.pipe")
    pid, where = await agent.word()
    assert where == str(world.foreign.folder)
    await world.shows(run, "COMPLETED", within=SEEN)
    await world.workers.idle(within=SEEN)
    assert not alive(pid)
    assert worker.heads() == []
    assert hooks(world) == set()
    # The ledger has no claim, no lease and no outcome for it.
    assert await world.runs.rows() == []


async def test_a_killed_external_run_is_crashed_and_its_hook_is_called(world: PrefectWorld) -> None:
    agent = await world.agents.add("")
    deployment = await world.foreign.deploy(FOREIGN)
    await world.workers.begin()
    run = await world.foreign.run(deployment, pipe=f"{agent.base}.pipe", ends=False)
    pid, _ = await agent.word()
    os.kill(pid, signal.SIGKILL)
    await world.shows(run, "CRASHED", within=SEEN)
    assert await world.foreign.noted("crashed") == [str(run.id), "CRASHED"]
    await world.workers.idle(within=SEEN)
    assert hooks(world) == {"crashed"}
    state = await world.prefect.state(run)
    assert state.message == "its process was ended by SIGKILL"


async def test_a_cancelled_external_run_ends_and_its_hook_is_called(world: PrefectWorld) -> None:
    agent = await world.agents.add("")
    deployment = await world.foreign.deploy(FOREIGN)
    worker = await world.workers.begin()
    run = await world.foreign.run(deployment, pipe=f"{agent.base}.pipe", ends=False)
    pid, _ = await agent.word()
    await world.shows(run, "RUNNING", within=SEEN)
    assert [each.pid for each in worker.heads()] == [pid]
    await world.prefect.cancel(run)

    async def has_exited() -> bool:
        return not alive(pid)

    assert await becomes_true(has_exited, SEEN)
    await world.shows(run, "CANCELLED", within=SEEN)
    assert await world.foreign.noted("cancelled") == [str(run.id), "CANCELLED"]
    await world.workers.idle(within=SEEN)


async def test_a_dead_workers_external_run_is_crashed_by_the_next_of_its_name(
    world: PrefectWorld,
) -> None:
    agent = await world.agents.add("")
    deployment = await world.foreign.deploy(FOREIGN)
    worker = await world.workers.begin(name="its-name")
    run = await world.foreign.run(deployment, pipe=f"{agent.base}.pipe", ends=False)
    pid, _ = await agent.word()
    await world.shows(run, "RUNNING", within=SEEN)
    os.kill(worker.pid, signal.SIGKILL)
    # No child outlives its worker.
    await world.workers.nobody(within=SEEN)
    assert not alive(pid)
    await world.workers.begin(name="its-name")
    await world.shows(run, "CRASHED", within=SEEN)


class NoRoom(Dispatcher):
    """Dispatcher that cannot start a process."""

    def __init__(self) -> None: ...

    async def start(self, run: FlowRun, how: ProcessSpec) -> None:
        raise OSError("no process")


@pytest.mark.parametrize(
    ("meanwhile", "shown"),
    [
        (Pending(), "PENDING"),
        (Running(), "RUNNING"),
        (Completed(), "COMPLETED"),
        (Scheduled(), "CRASHED"),
    ],
)
async def test_a_failed_start_crashes_a_run_unless_another_worker_took_it(
    world: PrefectWorld, meanwhile: State[Any], shown: str
) -> None:
    run = await world.foreign.run(await world.foreign.deploy(FOREIGN))

    async def missing_program(_: FlowRun) -> ProcessSpec:
        await world.client.set_flow_run_state(run.id, meanwhile, force=True)
        raise LookupError("its deployment was deleted")

    await external_runs.start(NoRoom(), world.client, run, missing_program, "here:a")

    assert (await world.prefect.shown(run))[0] == shown


async def test_a_run_that_the_worker_cannot_start_crashes_with_the_reason(
    world: PrefectWorld,
) -> None:
    run = await world.foreign.run(await world.foreign.deploy(FOREIGN))

    async def configured(_: FlowRun) -> ProcessSpec:
        await world.client.set_flow_run_state(run.id, Pending(), force=True)
        return ProcessSpec({}, "", "")

    await external_runs.start(NoRoom(), world.client, run, configured, "here:a")

    state = await world.prefect.state(run)
    assert (state.type.value, state.message) == (
        "CRASHED",
        "the worker cannot start it: no process",
    )


async def test_a_jobs_run_is_skipped_if_its_deployment_was_deleted_before_the_claim(
    world: PrefectWorld,
) -> None:
    run = await world.foreign.run(await world.foreign.deploy(FOREIGN))
    tagged = run.model_copy(update={"tags": [projection.ledger_tag(world.ledger.id)]})

    async def missing_program(_: FlowRun) -> ProcessSpec:
        raise ObjectNotFound(LookupError("its deployment was deleted"))

    await external_runs.start(NoRoom(), world.client, tagged, missing_program, "here:a")

    state = await world.prefect.state(run)
    shown = (state.type.value, state.name, state.message)
    assert shown == ("CANCELLED", "Skipped", "its deployment was deleted before the run started")


async def test_an_ended_run_without_its_deployment_is_not_handled_as_external(
    world: PrefectWorld,
) -> None:
    agent = await world.agents.add(WORKS)
    job = await world.deploy(on_demand=True, agent=agent.name)
    await world.workers.begin()
    run = await world.prefect.custom_run(job)
    agent.release()
    row = await world.wait_for_end(job, "succeeded", within=60.0)
    await world.client.delete_deployment(UUID(str(job.row.deployment_id)))

    async def known() -> bool:
        async with world.ledger.read() as session:
            return (await store.find(session, job.id)).row.deployment_id is None

    assert await becomes_true(known, SEEN), world.workers.logs()
    # Set it back, as a worker does that had fetched it before it ended.
    await world.client.set_flow_run_state(
        run.id, prefect_states.waiting_state(SYSTEM_CLOCK.now(), "late"), force=True
    )

    await world.shows(run, "COMPLETED", "Completed", within=SEEN)
    states = [each.type.value for each in await world.client.read_flow_run_states(run.id)]
    assert "CRASHED" not in states
    assert (await world.runs.row(row)).finished_at == row.finished_at
    assert agent.effect_count == 1


async def test_starting_a_run_that_is_deleted_meanwhile_raises_no_error(
    world: PrefectWorld,
) -> None:
    run = await world.foreign.run(await world.foreign.deploy(FOREIGN))

    async def deleted(_: FlowRun) -> ProcessSpec:
        await world.client.delete_flow_run(run.id)
        raise LookupError("its deployment was deleted")

    await external_runs.start(NoRoom(), world.client, run, deleted, "here:a")
