"""The gate of a run that a worker started: killed in the middle, and one that does not end."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.crew import SEEN, Crew
from tests.floor import PREFECT_LEAVES_A_SOCKET, alive
from tests.toolbox import install

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.slow, *PREFECT_LEAVES_A_SOCKET]

ITS_TIME = 60.0
"""A second, 15 s by which the worker waits longer, 10 s to end, and what a busy machine adds."""

ASKED = """
tell("asked")
heed()
print('{"action": "run", "reason": "something came"}')
"""


async def test_killed_at_its_gate_a_run_waits_and_is_asked_for_again(crew: Crew) -> None:
    gate, main = await crew.floor.agent(ASKED), await crew.floor.agent("had(); print('done')")
    check = {"prompt": "Anything new?", "agent": gate.name}
    job = await crew.floor.job(on_demand=True, agent=main.name, policy={"check": check})
    worker = await crew.worker()
    await crew.floor.asked(job)
    first = await gate.says("asked")
    assert (await crew.row(job)).status == "claimed"

    (head,) = worker.heads()
    os.kill(head.pid, signal.SIGKILL)
    again = await gate.says("asked")
    gate.let_go(2)

    row = await crew.ends(job, "succeeded", within=SEEN)
    assert again != first
    assert not alive(first)
    assert (row.attempts, main.had) == (1, 1)


async def test_a_check_that_nothing_can_stop_is_ended_with_its_process(
    crew: Crew, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What goes on in a thread is ended by nothing but the end of its process.
    site = tmp_path / "site"
    source = "import threading\ndef stuck() -> bool:\n    return threading.Event().wait()\n"
    install(site, source, "stuck")
    monkeypatch.setenv("PYTHONPATH", f"{site}{os.pathsep}{os.environ['PYTHONPATH']}")
    main = await crew.floor.agent("had()")
    policy = {"check": {"tool": "stuck"}, "timeout": "1s"}
    job = await crew.floor.job(on_demand=True, agent=main.name, policy=policy)
    await crew.worker()

    await crew.floor.asked(job)

    row = await crew.ends(job, "timed_out", within=ITS_TIME)
    assert (row.attempts, main.had) == (0, 0)
    assert "no end within 1s" in str(row.error)


async def test_a_heartbeat_of_a_worker(crew: Crew) -> None:
    (crew.floor.home.path / "HEARTBEAT.md").write_text("Tell me when it is late.")
    gate = await crew.floor.agent(ASKED)
    main = await crew.floor.agent("had(); print('It is late.')")
    fields = {"kind": "heartbeat", "prompt": None, "on_demand": True}
    job = await crew.floor.job(**fields, agent=main.name, gate_agent=gate.name)
    await crew.worker()

    await crew.floor.asked(job)
    await gate.says("asked")
    gate.let_go()

    row = await crew.ends(job, "succeeded", within=SEEN)
    assert (row.output, row.attempts, main.had) == ("It is late.", 1, 1)
    assert row.session_id == f"{main.name}:job:{job.id}"
