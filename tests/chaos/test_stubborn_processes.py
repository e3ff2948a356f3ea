"""Processes that do not end: they ignore SIGTERM, have grandchildren, or hold the interpreter."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta

import pytest

from daybook.processes import proc
from daybook.timing import TIMING
from tests.conftest import PrefectServer
from tests.world.agents import DEAF
from tests.world.home import with_worker
from tests.world.prefect_world import PrefectWorld
from tests.world.processes import alive
from tests.world.workers import CANCELLED, PREFECT_LEAVES_A_SOCKET, SEEN

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.slow, *PREFECT_LEAVES_A_SOCKET]

IMPATIENT = replace(TIMING, stop_grace=timedelta(seconds=4), cancel_check=timedelta(seconds=1))
HARD = 1.0 + 4.0 + SEEN
"""Seconds until a cancel is noticed without an event, from SIGTERM to SIGKILL, and a margin."""


@pytest.fixture(scope="module")
async def module_world(
    anyio_backend: str, prefect_server: PrefectServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[PrefectWorld]:
    """Yield a home with one worker, which ends processes after a shorter grace period."""
    root = tmp_path_factory.mktemp("working")
    async with with_worker(root, prefect_server, IMPATIENT) as world:
        yield world


# One child in its group, one in a process session of its own, one orphan; all ignore SIGTERM.
CHILDREN = """
import subprocess
def begin(session):
    program = "import signal as s; s.signal(15, s.SIG_IGN); print(1, flush=True); s.pause()"
    child = subprocess.Popen(
        [sys.executable, "-c", program, sys.argv[1]],
        stdout=subprocess.PIPE,
        start_new_session=session,
    )
    child.stdout.readline()
    tell(f"child {child.pid}")
begin(False)
begin(True)
if os.fork() == 0:
    begin(True)
    os._exit(0)
os.wait()
"""

# Ignores SIGTERM; with ``holds`` it stays in a C call that never releases the interpreter.
FOREIGN = """
import os, signal
from prefect import flow
from prefect.client.schemas.objects import FlowRun, State

@flow
def foreign(pipe: str, holds: bool) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with open(pipe, "a") as out:
        print(os.getpid(), "running", file=out, flush=True)
    if holds:
        sum(range(1 << 60))
    while True:
        signal.pause()

@foreign.on_cancellation
def was_cancelled(flow, run: FlowRun, state: State) -> None:
    with open(f"hooks {run.id}", "a") as out:
        print(run.id, state.type.value, file=out)
"""


async def test_cancelling_ends_an_agent_that_ignores_sigterm(working: PrefectWorld) -> None:
    agent = await working.agents.add(DEAF)
    job = await working.deploy(on_demand=True, agent=agent.name)
    asked = await working.prefect.custom_run(job)
    pid = await agent.says("running")
    await working.prefect.cancel(asked)
    await working.workers.idle(within=HARD)
    assert not alive(pid)
    await working.wait_for_end(job, "cancelled", within=SEEN)
    assert agent.effect_count == 1


@pytest.mark.parametrize("holds", [False, True], ids=["ignores_sigterm", "holds_the_gil"])
async def test_cancelling_ends_an_external_run_that_ignores_sigterm_or_holds_the_gil(
    working: PrefectWorld, holds: bool
) -> None:
    agent = await working.agents.add("")
    deployment = await working.foreign.deploy(FOREIGN)
    await working.deploy(on_demand=True)  # so that the pool belongs to this ledger
    run = await working.foreign.run(deployment, pipe=str(agent.base) + ".pipe", holds=holds)
    pid = await agent.says("running")
    assert pid in working.workers.at_work()
    await working.prefect.cancel(run)
    await working.shows(run, "CANCELLED", within=HARD + SEEN)
    assert not alive(pid)
    assert await working.foreign.noted(f"hooks {run.id}") == [str(run.id), "CANCELLED"]
    await working.workers.idle(within=SEEN)
    assert str(run.id) not in {each.flow_run_id for each in await working.runs.rows()}


@pytest.mark.parametrize("cancelled", [True, False], ids=["cancelled", "ends"])
async def test_grandchildren_of_an_agent_end_with_its_run(
    working: PrefectWorld, cancelled: bool
) -> None:
    end = 'had(); tell("running"); heed(); print("done")'
    agent = await working.agents.add(CHILDREN + end)
    job = await working.deploy(on_demand=True, agent=agent.name)
    asked = await working.prefect.custom_run(job)
    words = [await agent.word() for _ in range(3)]
    children = [proc.find(int(word.removeprefix("child "))) for _, word in words]
    pid = await agent.says("running")
    living = [each for each in children if each is not None]
    assert len(living) == 3
    if cancelled:
        await working.prefect.cancel(asked)
        # The program ends at once, its children at the end of their grace period.
        await working.workers.idle(within=HARD)
    else:
        agent.release()
    row = await working.wait_for_end(job, "cancelled" if cancelled else "succeeded", within=SEEN)
    await working.workers.idle(within=SEEN)
    assert not alive(pid)
    assert [each for each in living if proc.find(each.pid, each.started)] == []
    assert agent.effect_count == row.attempts == 1


# After SIGTERM it takes a second to clean up.
ORDERLY = """
import select
def put_in_order(number, frame):
    tell("asked")
    select.select([], [], [], 1.0)
    tell("in order")
    sys.exit(0)
signal.signal(signal.SIGTERM, put_in_order)
had(); tell("running"); forever()
"""


async def test_an_agent_that_needs_a_second_to_clean_up_gets_it(working: PrefectWorld) -> None:
    agent = await working.agents.add(ORDERLY)
    job = await working.deploy(on_demand=True, agent=agent.name)
    asked = await working.prefect.custom_run(job)
    await agent.says("running")
    await working.prefect.cancel(asked)
    await agent.says("asked", within=HARD)
    await agent.says("in order", within=5.0)
    await working.workers.idle(within=CANCELLED)
    await working.wait_for_end(job, "cancelled", within=SEEN)
