"""What users do most with a real worker; all share it, because a start needs five CPU seconds."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from datetime import timedelta
from uuid import UUID

import pytest
from prefect.exceptions import ObjectNotFound
from prefect.states import Scheduled

import daybook
from daybook.clock import SYSTEM_CLOCK
from daybook.errors import NotFound
from daybook.ledger.tables import RunRow
from daybook.processes import proc
from daybook.schedules.schedule import Cron
from tests.conftest import PrefectServer
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


@pytest.mark.floor("A", "A job has the owner kind user")
@pytest.mark.floor("A", "RunJobNow runs a job at once")
@pytest.mark.floor("B", "TriggerJob runs a job at once")
@pytest.mark.floor("B", "TriggerJob returns the outcome with its output")
@pytest.mark.floor("C", "created_by: who made the job")
@pytest.mark.floor("E", "An update of the schedule computes the next run")
async def test_a_program_adds_edits_pauses_runs_and_removes_a_job(
    working: PrefectWorld,
) -> None:
    client = daybook.Client()

    async def listed(state: str = "") -> list[str]:
        names = [each.name for each in await client.list(state)]
        return [name for name in names if name == "brief"]  # other tests leave jobs

    job = await client.add(
        "Summarise open pull requests",
        schedule="0 9 * * 1-5",
        timezone="Europe/Berlin",
        name="brief",
        agent="default",
        metadata={"repository": "daybook"},
    )
    assert (job.name, job.words) == ("brief", "at 09:00 on weekdays, Europe/Berlin")
    assert (job.owner, job.created_by, job.user_id) == ("user", "api", "")
    assert job.metadata == {"repository": "daybook"}
    assert await listed() == ["brief"]

    changed = await client.update("brief", schedule="30 9 * * *")
    assert changed.schedule == Cron(expr="30 9 * * *", timezone="Europe/Berlin")
    assert changed.action == job.action
    [first, *_] = await client.next("brief", count=2)
    assert f"{first.local:%H:%M}" == "09:30"

    assert (await client.pause("brief", "holidays")).disabled_reason == "paused: holidays"
    assert await listed("disabled") == ["brief"]
    assert await listed("enabled") == []
    run = await client.run("brief", wait=True, request_id="ticket-17")
    assert (run.status, run.trigger, run.job) == ("succeeded", "api", "brief")
    assert "Summarise open pull requests" in (run.output or "")
    again = await client.run("brief", request_id="ticket-17")
    assert again.id == run.id
    assert [each.id for each in await client.runs("brief")] == [run.id]
    assert (await client.run_of(run.id[:12])).output == run.output

    assert (await client.resume("brief")).enabled is True
    last = (await client.get("brief")).last_run
    assert last is not None and last.id == run.id
    await client.remove("brief")
    assert await listed() == []
    with pytest.raises(NotFound, match='job "brief" not found'):
        await client.pause("brief")
    assert [each.id for each in await client.runs(job.id)] == [run.id]


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
