"""Checks and heartbeats with a real worker, including a check that is killed or does not end."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.toolbox import install
from tests.world.prefect_world import PrefectWorld
from tests.world.processes import alive
from tests.world.workers import PREFECT_LEAVES_A_SOCKET, SEEN

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.slow, *PREFECT_LEAVES_A_SOCKET]

ITS_TIME = 60.0
"""Its timeout of 1 s, the worker's extra 15 s, 10 s to end, and a margin for a busy machine."""

ASKED = """
tell("asked")
heed()
print('{"action": "run", "reason": "something came"}')
"""


async def test_a_run_killed_during_its_check_waits_and_is_checked_again(
    world: PrefectWorld,
) -> None:
    gate, main = await world.agents.add(ASKED), await world.agents.add("had(); print('done')")
    check = {"prompt": "Anything new?", "agent": gate.name}
    job = await world.deploy(on_demand=True, agent=main.name, policy={"check": check})
    worker = await world.workers.begin()
    await world.prefect.custom_run(job)
    first = await gate.says("asked")
    assert (await world.runs.row(job)).status == "claimed"

    (head,) = worker.heads()
    os.kill(head.pid, signal.SIGKILL)
    again = await gate.says("asked")
    gate.release(2)

    row = await world.wait_for_end(job, "succeeded", within=SEEN)
    assert again != first
    assert not alive(first)
    assert (row.attempts, main.effect_count) == (1, 1)


async def test_a_check_that_does_not_end_is_killed_with_its_process(
    world: PrefectWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Only the end of its process ends a thread.
    site = tmp_path / "site"
    source = "import threading\ndef stuck() -> bool:\n    return threading.Event().wait()\n"
    install(site, source, "stuck")
    monkeypatch.setenv("PYTHONPATH", f"{site}{os.pathsep}{os.environ['PYTHONPATH']}")
    main = await world.agents.add("had()")
    policy = {"check": {"tool": "stuck"}, "timeout": "1s"}
    job = await world.deploy(on_demand=True, agent=main.name, policy=policy)
    await world.workers.begin()

    await world.prefect.custom_run(job)

    row = await world.wait_for_end(job, "timed_out", within=ITS_TIME)
    assert (row.attempts, main.effect_count) == (0, 0)
    assert "did not end within 1s" in str(row.error)


async def test_a_heartbeat_runs_its_agent_after_the_gate_agent_agreed(world: PrefectWorld) -> None:
    (world.home.path / "HEARTBEAT.md").write_text("Tell me when it is late.")
    gate = await world.agents.add(ASKED)
    main = await world.agents.add("had(); print('It is late.')")
    fields = {"kind": "heartbeat", "prompt": None, "on_demand": True}
    job = await world.deploy(**fields, agent=main.name, gate_agent=gate.name)
    await world.workers.begin()

    await world.prefect.custom_run(job)
    await gate.says("asked")
    gate.release()

    row = await world.wait_for_end(job, "succeeded", within=SEEN)
    assert (row.output, row.attempts, main.effect_count) == ("It is late.", 1, 1)
    assert row.session_id == f"{main.name}:job:{job.id}"
