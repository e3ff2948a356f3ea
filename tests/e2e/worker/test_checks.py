"""The gate of a run that a worker started: killed in the middle, and one that does not end."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.toolbox import install
from tests.world import World
from tests.world.workers import PREFECT_LEAVES_A_SOCKET, SEEN, alive

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.slow, *PREFECT_LEAVES_A_SOCKET]

ITS_TIME = 60.0
"""A second, 15 s by which the worker waits longer, 10 s to end, and what a busy machine adds."""

ASKED = """
tell("asked")
heed()
print('{"action": "run", "reason": "something came"}')
"""


async def test_killed_at_its_gate_a_run_waits_and_is_asked_for_again(world: World) -> None:
    gate, main = await world.agents.add(ASKED), await world.agents.add("had(); print('done')")
    check = {"prompt": "Anything new?", "agent": gate.name}
    job = await world.deploy(on_demand=True, agent=main.name, policy={"check": check})
    worker = await world.workers.begin()
    await world.prefect.custom_run(job)
    first = await gate.says("asked")
    assert (await world.row(job)).status == "claimed"

    (head,) = worker.heads()
    os.kill(head.pid, signal.SIGKILL)
    again = await gate.says("asked")
    gate.let_go(2)

    row = await world.ends(job, "succeeded", within=SEEN)
    assert again != first
    assert not alive(first)
    assert (row.attempts, main.had) == (1, 1)


async def test_a_check_that_nothing_can_stop_is_ended_with_its_process(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What goes on in a thread is ended by nothing but the end of its process.
    site = tmp_path / "site"
    source = "import threading\ndef stuck() -> bool:\n    return threading.Event().wait()\n"
    install(site, source, "stuck")
    monkeypatch.setenv("PYTHONPATH", f"{site}{os.pathsep}{os.environ['PYTHONPATH']}")
    main = await world.agents.add("had()")
    policy = {"check": {"tool": "stuck"}, "timeout": "1s"}
    job = await world.deploy(on_demand=True, agent=main.name, policy=policy)
    await world.workers.begin()

    await world.prefect.custom_run(job)

    row = await world.ends(job, "timed_out", within=ITS_TIME)
    assert (row.attempts, main.had) == (0, 0)
    assert "no end within 1s" in str(row.error)


async def test_a_heartbeat_of_a_worker(world: World) -> None:
    (world.home.path / "HEARTBEAT.md").write_text("Tell me when it is late.")
    gate = await world.agents.add(ASKED)
    main = await world.agents.add("had(); print('It is late.')")
    fields = {"kind": "heartbeat", "prompt": None, "on_demand": True}
    job = await world.deploy(**fields, agent=main.name, gate_agent=gate.name)
    await world.workers.begin()

    await world.prefect.custom_run(job)
    await gate.says("asked")
    gate.let_go()

    row = await world.ends(job, "succeeded", within=SEEN)
    assert (row.output, row.attempts, main.had) == ("It is late.", 1, 1)
    assert row.session_id == f"{main.name}:job:{job.id}"
