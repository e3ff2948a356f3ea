"""What users do most with a real worker; all share it, because a start needs five CPU seconds."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator
from datetime import timedelta
from uuid import UUID

import pytest
from prefect.exceptions import ObjectNotFound
from prefect.states import Scheduled

from daybook.clock import SYSTEM_CLOCK
from daybook.ledger.tables import RunRow
from daybook.processes import proc
from tests.conftest import PrefectServer
from tests.e2e.mcp.clients import PROGRAM, Where, by_mcp
from tests.e2e.worker.cancelling import cancelled, two
from tests.toolbox import install
from tests.waiting import becomes_true
from tests.world.agents import FOR_EVER, WORKS
from tests.world.home import with_worker
from tests.world.prefect_world import PrefectWorld
from tests.world.processes import alive
from tests.world.workers import PREFECT_LEAVES_A_SOCKET, SEEN

pytestmark = [
    *(pytest.mark.anyio, pytest.mark.e2e, pytest.mark.slow, pytest.mark.journey),
    *PREFECT_LEAVES_A_SOCKET,
]


@pytest.fixture(scope="module")
async def module_world(
    anyio_backend: str, prefect_server: PrefectServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[PrefectWorld]:
    """Yield a home with one worker, in whose environment the tool `shout` is installed."""
    site = tmp_path_factory.mktemp("site")
    install(site, "def shout(text: str) -> str:\n    return text.upper()\n", "shout")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{site}{os.pathsep}{os.environ['PYTHONPATH']}")
        async with with_worker(tmp_path_factory.mktemp("working"), prefect_server) as world:
            yield world


@pytest.mark.floor("C", "A run can be cancelled")
async def test_a_running_run_can_be_cancelled(working: PrefectWorld) -> None:
    agents, jobs = await two(working, FOR_EVER)
    for agent, job in zip(agents, jobs, strict=True):
        await working.prefect.custom_run(job)
        await agent.says("running")
    await cancelled(working, jobs)
    assert [each.effect_count for each in agents] == [1, 1]
    for job in jobs:
        row = await working.runs.row(job)
        (attempt,) = await working.runs.attempts(row)
        assert attempt.status == "cancelled"

        async def has_artifact(of: RunRow = row) -> bool:
            return await working.prefect.has_artifact(of.flow_run_id)

        assert await becomes_true(has_artifact, SEEN)
        page = await working.prefect.artifact(row.flow_run_id)
        assert page.startswith(f"# {job.job.name}\n\n**cancelled** · requested ")
        log = await working.prefect.log(row.flow_run_id)
        assert ("INFO", "cancelled") in log
        assert "ERROR" not in {level for level, _ in log}
        assert " · took " in page and f"/deployments/deployment/{job.row.deployment_id})" in page


async def test_a_retry_in_prefects_ui_is_a_run_of_its_own(working: PrefectWorld) -> None:
    agent = await working.agents.add(WORKS)
    job = await working.deploy(on_demand=True, agent=agent.name)
    asked = await working.prefect.custom_run(job)
    agent.release(2)
    first = await working.wait_for_end(job, "succeeded", within=30.0)
    await working.client.set_flow_run_state(asked.id, Scheduled(), force=True)
    await agent.says("running")
    await agent.says("running")
    rows = await working.runs.rows(job)
    assert [each.occurrence for each in rows] == [f"flow:{asked.id}", f"flow:{asked.id}:1"]
    again = await working.wait_for_end(rows[1], "succeeded", within=SEEN)
    assert (again.trigger, again.retry_of, again.flow_run_id) == ("retry", first.id, str(asked.id))
    before = await working.runs.row(first)
    assert (before.finished_at, before.status) == (first.finished_at, "succeeded")
    assert agent.effect_count == 2


async def test_delete_after_run_deletes_the_deployment_of_a_one_time_job(
    working: PrefectWorld,
) -> None:
    agent = await working.agents.add('had(); print("done")\n')
    at = (SYSTEM_CLOCK.now() + timedelta(seconds=8)).replace(microsecond=0)
    job = await working.deploy(agent=agent.name, at=at.isoformat(), delete_after_run=True)

    row = await working.wait_for_status(job, "succeeded", within=60.0)

    async def has_exited() -> bool:
        try:
            await working.client.read_deployment(UUID(str(job.row.deployment_id)))
        except ObjectNotFound:
            return True
        return False

    assert await becomes_true(has_exited, SEEN), working.workers.logs()
    assert (row.status, agent.effect_count) == ("succeeded", 1)
    await working.shows(row.flow_run_id, "COMPLETED", "Completed", within=SEEN)


@pytest.mark.floor("A", "SetOnJob: a callable executes the job")
@pytest.mark.floor("B", "A handler executes the action")
async def test_a_worker_calls_an_installed_python_tool(working: PrefectWorld) -> None:
    fields = {"tool": "shout", "params": {"text": "aloud"}, "on_demand": True}
    stored = await working.deploy(prompt=None, **fields)

    await working.prefect.custom_run(stored)

    row = await working.wait_for_end(stored, "succeeded", within=SEEN)
    assert row.output == "ALOUD"
    assert row.result == {"tool_name": "shout", "params": {"text": "aloud"}, "result": "ALOUD"}


async def test_an_mcp_client_cancels_an_endless_run(working: PrefectWorld) -> None:
    agent = await working.agents.add(FOR_EVER)
    command = (*PROGRAM, "--owner", f"agent:{agent.name}")
    async with by_mcp(Where(dict(os.environ), command=command)) as talk:
        given = {
            "prompt": "Go on.",
            "schedule": "on demand",
            "agent": agent.name,
            "name": "endless",
        }
        assert not (await talk.call("cron_add", **given)).refused
        asked = asyncio.create_task(talk.call("cron_trigger", job_id="endless"))
        await agent.says("running")
        live = await talk.call("cron_runs", job_id="endless")
        assert ": running, requested " in live.text
        ended = await talk.call("cron_cancel", job_id="endless")
        assert re.match(r"Ended: run [0-9a-f]{8}: cancelled", ended.text), ended.text
        assert (await asked).text.startswith("Ran: run ")
        again = await talk.call("cron_cancel", job_id="endless")
        assert (again.refused, "cron_runs lists" in again.text) == (True, True), again.text
        assert not (await talk.call("cron_remove", job_id="endless")).refused
    assert agent.effect_count == 1


async def test_a_running_run_whose_process_is_killed_is_unknown(working: PrefectWorld) -> None:
    agent = await working.agents.add(WORKS)
    job = await working.deploy(on_demand=True, agent=agent.name)
    (worker,) = working.workers.all
    await working.prefect.custom_run(job)
    pid = await agent.says("running")
    (head,) = worker.heads()
    assert pid in {each.pid for each in proc.process_tree(head)}
    os.kill(head.pid, signal.SIGKILL)
    row = await working.wait_for_end(job, "unknown", within=SEEN)
    assert row.reason == "its process was ended by SIGKILL"
    await working.workers.idle(within=SEEN)
    assert not alive(pid)
    assert agent.effect_count == 1
    (attempt,) = await working.runs.attempts(row)
    assert attempt.status == "unknown"
