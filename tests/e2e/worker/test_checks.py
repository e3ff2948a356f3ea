"""Checks and heartbeats with a real worker, including a check that is killed."""

from __future__ import annotations

import os
import signal

import pytest

from tests.world.prefect_world import PrefectWorld
from tests.world.processes import alive
from tests.world.workers import PREFECT_LEAVES_A_SOCKET, SEEN

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.slow, *PREFECT_LEAVES_A_SOCKET]

ASKED = """
tell("asked")
heed()
print('{"action": "run", "reason": "something came"}')
"""


async def test_a_run_killed_during_its_check_waits_and_is_checked_again(
    working: PrefectWorld,
) -> None:
    gate, main = await working.agents.add(ASKED), await working.agents.add("had(); print('done')")
    check = {"prompt": "Anything new?", "agent": gate.name}
    job = await working.deploy(on_demand=True, agent=main.name, policy={"check": check})
    (worker,) = working.workers.all
    await working.prefect.custom_run(job)
    first = await gate.says("asked")
    assert (await working.runs.row(job)).status == "claimed"

    (head,) = worker.heads()
    os.kill(head.pid, signal.SIGKILL)
    again = await gate.says("asked")
    gate.release(2)

    row = await working.wait_for_end(job, "succeeded", within=SEEN)
    assert again != first
    assert not alive(first)
    assert (row.attempts, main.effect_count) == (1, 1)


async def test_a_heartbeat_runs_its_agent_after_the_gate_agent_agreed(
    working: PrefectWorld,
) -> None:
    (working.home.path / "HEARTBEAT.md").write_text("Tell me when it is late.")
    gate = await working.agents.add(ASKED)
    main = await working.agents.add("had(); print('It is late.')")
    fields = {"kind": "heartbeat", "prompt": None, "on_demand": True}
    job = await working.deploy(**fields, agent=main.name, gate_agent=gate.name)

    await working.prefect.custom_run(job)
    await gate.says("asked")
    gate.release()

    row = await working.wait_for_end(job, "succeeded", within=SEEN)
    assert (row.output, row.attempts, main.effect_count) == ("It is late.", 1, 1)
    assert row.session_id == f"{main.name}:job:{job.id}"
