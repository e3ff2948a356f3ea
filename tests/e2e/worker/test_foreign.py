"""Flows in our pool that are not of a job: they run as Prefect would have them run."""

from __future__ import annotations

import os
import signal

import pytest

from tests.crew import CANCELLED, SEEN, Crew
from tests.floor import PREFECT_LEAVES_A_SOCKET, alive

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, *PREFECT_LEAVES_A_SOCKET]

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


def hooks(crew: Crew) -> set[str]:
    """The hooks that were called."""
    return {each.name for each in crew.floor.elsewhere.iterdir()} & {"crashed", "cancelled"}


async def test_it_runs_where_its_deployment_says(crew: Crew) -> None:
    agent = await crew.floor.agent("")
    deployment = await crew.foreign(FOREIGN)
    worker = await crew.worker()
    run = await crew.run_foreign(deployment, pipe=f"{agent.base}.pipe")
    pid, where = await agent.word()
    assert where == str(crew.floor.elsewhere)
    await crew.shows(run, "COMPLETED", within=SEEN)
    await crew.idle(within=SEEN)
    assert not alive(pid)
    assert worker.heads() == []
    assert hooks(crew) == set()
    # It has no claim, no lease and no outcome of ours.
    assert await crew.floor.rows() == []


async def test_killed_it_is_crashed_and_its_hook_is_called(crew: Crew) -> None:
    agent = await crew.floor.agent("")
    deployment = await crew.foreign(FOREIGN)
    await crew.worker()
    run = await crew.run_foreign(deployment, pipe=f"{agent.base}.pipe", ends=False)
    pid, _ = await agent.word()
    os.kill(pid, signal.SIGKILL)
    await crew.shows(run, "CRASHED", within=SEEN)
    assert await crew.noted("crashed") == [str(run.id), "CRASHED"]
    await crew.idle(within=SEEN)
    assert hooks(crew) == {"crashed"}
    state = await crew.floor.state(run)
    assert state.message == "its process was ended by SIGKILL"


async def test_cancelled_its_hook_is_called(crew: Crew) -> None:
    agent = await crew.floor.agent("")
    deployment = await crew.foreign(FOREIGN)
    worker = await crew.worker()
    run = await crew.run_foreign(deployment, pipe=f"{agent.base}.pipe", ends=False)
    pid, _ = await agent.word()
    await crew.shows(run, "RUNNING", within=SEEN)
    assert [each.pid for each in worker.heads()] == [pid]
    await crew.cancel_in_ui(run)
    await crew.shows(run, "CANCELLED", within=CANCELLED + 2.0)
    assert not alive(pid)
    assert await crew.noted("cancelled") == [str(run.id), "CANCELLED"]
    await crew.idle(within=SEEN)


async def test_a_dead_workers_is_crashed_by_the_next_of_its_name(crew: Crew) -> None:
    agent = await crew.floor.agent("")
    deployment = await crew.foreign(FOREIGN)
    worker = await crew.worker(name="its-name")
    run = await crew.run_foreign(deployment, pipe=f"{agent.base}.pipe", ends=False)
    pid, _ = await agent.word()
    await crew.shows(run, "RUNNING", within=SEEN)
    os.kill(worker.pid, signal.SIGKILL)
    # No child outlives its worker.
    await crew.nobody(within=SEEN)
    assert not alive(pid)
    await crew.worker(name="its-name")
    await crew.shows(run, "CRASHED", within=SEEN)
