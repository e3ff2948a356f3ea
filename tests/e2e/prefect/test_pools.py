"""Jobs whose runs happen in another work pool, on Prefect's own process worker."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from prefect.workers.process import ProcessWorker

from daybook import __version__, api
from daybook.diagnosis.checks import pools as checks
from daybook.errors import InvalidInput
from daybook.ledger.tables import JobRow, RunRow
from daybook.prefect import ended_runs, scheduled_runs
from daybook.processes import children
from daybook.processes.children import Child
from daybook.processes.proc import process_tree
from daybook.runs import claims, leases
from tests.timings import SHORT
from tests.waiting import becomes_true
from tests.world.agents import WORKS
from tests.world.prefect_world import PrefectWorld
from tests.world.workers import PREFECT_LEAVES_A_SOCKET

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, *PREFECT_LEAVES_A_SOCKET]

POOL = "machines"
SECONDS = 60.0
ON_DEMAND: dict[str, Any] = {"prompt": "hello", "on_demand": True}


@pytest.fixture
async def pool(world: PrefectWorld) -> AsyncIterator[str]:
    template = ProcessWorker.get_default_base_job_template()
    new = {"name": POOL, "type": "process", "base_job_template": template}
    await world.prefect.request("POST", "/work_pools/", new)
    yield POOL
    await world.prefect.request("DELETE", f"/work_pools/{POOL}")


async def test_a_pool_that_prefect_does_not_have_is_refused(world: PrefectWorld) -> None:
    with pytest.raises(InvalidInput, match='Prefect has no work pool "nowhere"'):
        await api.jobs.add({**ON_DEMAND, "pool": "nowhere"})
    with pytest.raises(InvalidInput, match="worker_label"):
        await api.jobs.add({**ON_DEMAND, "pool": "nowhere", "worker_label": "gpu"})
    assert await world.jobs.ids() == {}


async def test_a_job_is_in_its_pool_until_it_chooses_daybooks(
    world: PrefectWorld, pool: str
) -> None:
    stored = await world.deploy(pool=pool)
    name, slug = stored.job.name, stored.row.slug
    found = await world.deployments.get(slug)
    assert (found.work_pool_name, found.work_queue_name) == (pool, "default")
    assert (await world.sync()).writes == 0
    (missing,) = await checks.of_jobs(world.client)
    assert missing.message == f"no worker of the work pool {pool} is online: needed by {name}"

    await world.jobs.edit(stored.id, pool="daybook")
    await world.sync()
    found = await world.deployments.get(slug)
    assert (found.work_pool_name, found.work_queue_name) == ("daybook", stored.job.policy.class_)
    assert (await world.sync()).writes == 0
    assert await checks.of_jobs(world.client) == []


async def test_job_variables_are_those_of_the_deployment(world: PrefectWorld, pool: str) -> None:
    with pytest.raises(InvalidInput, match='unknown "image"'):  # a process pool has no image
        await api.jobs.add({**ON_DEMAND, "pool": pool, "job_variables": {"image": "x"}})
    with pytest.raises(InvalidInput, match='"stream_output" does not fit'):
        await api.jobs.add({**ON_DEMAND, "pool": pool, "job_variables": {"stream_output": "x"}})
    with pytest.raises(InvalidInput, match="looks like a secret"):
        await api.jobs.add({**ON_DEMAND, "pool": pool, "job_variables": {"env": {"TOKEN": "abc"}}})
    assert await world.jobs.ids() == {}

    stored = await world.deploy(pool=pool, job_variables={"env": {"A": "1"}, "name": "ours"})
    slug = stored.row.slug

    async def variables() -> dict[str, Any]:
        assert (await world.sync()).writes == 0
        return (await world.deployments.get(slug)).job_variables

    assert await variables() == {"env": {"A": "1"}, "name": "ours"}
    assert (await world.sync()).writes == 0

    # The operator's own variables stay, and the job's are restored.
    await world.deployments.edit(
        slug, job_variables={"env": {"A": "2"}, "working_dir": "/srv", "stream_output": False}
    )
    assert (await world.sync()).writes == 1
    theirs = {"working_dir": "/srv", "stream_output": False}
    assert await variables() == {**theirs, "env": {"A": "1"}, "name": "ours"}

    await world.jobs.edit(stored.id, job_variables={"env": {"A": "3"}})
    await world.sync()
    assert await variables() == {**theirs, "env": {"A": "3"}}

    # An edit of the job's parameters in Prefect changes the job, and so the variables.
    parameters = (await world.deployments.get(slug)).parameters
    parameters["policy"]["job_variables"] = {"working_dir": "/opt"}
    await world.deployments.edit(slug, parameters=parameters)
    await world.sync()
    assert (await world.jobs.get(slug)).job.policy.job_variables == {"working_dir": "/opt"}
    assert await variables() == {"working_dir": "/opt", "stream_output": False}

    await world.jobs.edit(stored.id, pool="daybook", job_variables={})
    await world.sync()
    assert await variables() == {"stream_output": False}


async def test_a_write_that_a_crash_left_unrecorded_leaves_no_variable_behind(
    world: PrefectWorld, pool: str
) -> None:
    stored = await world.deploy(pool=pool)
    before = dict(stored.row.synced or {})
    await world.jobs.edit(stored.id, job_variables={"name": "ours"})
    await world.sync()
    async with world.ledger.write() as session:  # as if the agreement was not recorded
        row = await session.get(JobRow, stored.id)
        assert row is not None
        row.synced, row.sync_pending = before, True
    await world.jobs.edit(stored.id, job_variables={"working_dir": "/srv"})
    await world.sync()
    found = await world.deployments.get(stored.row.slug)
    assert found.job_variables == {"working_dir": "/srv"}


async def test_doctor_says_what_the_runs_of_a_pool_need(world: PrefectWorld, pool: str) -> None:
    async def messages(name: str) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for each in await checks.of_pool(world.client, name=name):
            found.setdefault(each.severity, []).append(each.message)
        return found

    assert await messages("nowhere") == {"problem": ["Prefect has no work pool nowhere"]}
    assert await messages("daybook") == {"ok": ["daybook is the pool of Daybook's own workers"]}
    job = await world.deploy(pool=pool, job_variables={"working_dir": "/srv"})
    assert (await messages(pool))["problem"] == [f"no worker of the work pool {pool} is online"]

    # The template lost the variable, and a worker of the pool is online.
    path = f"/work_pools/{pool}"
    template = ProcessWorker.get_default_base_job_template()
    del template["variables"]["properties"]["working_dir"]
    del template["job_configuration"]["working_dir"]
    await world.prefect.request("PATCH", path, {"base_job_template": template})
    await world.prefect.request("POST", f"{path}/workers/heartbeat", {"name": "theirs"})
    found = await messages(pool)
    (unserved, misfit) = found["problem"]
    assert unserved == f"no worker serves the work queue default of the work pool {pool}"
    assert misfit.startswith(f"the job variables of {job.job.name} do not fit the work pool {pool}")
    assert found["ok"][0] == f"it needs prefect-daybook=={__version__}, with its flows"

    queue = {"name": "slow", "is_paused": True}
    await world.prefect.request("POST", f"{path}/queues", queue)
    await world.deployments.edit(job.row.slug, work_pool_name=pool, work_queue_name="slow")
    assert (await world.sync()).writes == 0
    paused = f"the work queue slow of the work pool {pool} is paused"
    assert (await messages(pool))["problem"][0] == paused
    flow = await world.client.create_flow_from_name("theirs")  # a queue of others in the pool
    queue = {"name": "others", "is_paused": True}
    await world.prefect.request("POST", f"{path}/queues", queue)
    await world.client.create_deployment(
        flow, "theirs", work_pool_name=pool, work_queue_name="others"
    )
    assert not any("others" in each for each in (await messages(pool))["problem"])
    await world.prefect.request("PATCH", path, {"is_paused": True})
    assert (await messages(pool))["problem"][0] == f"the work pool {pool} is paused"

    await world.prefect.request("POST", "/work_pools/", {"name": "containers", "type": "docker"})
    (ledger, prefect) = (await messages("containers"))["warning"]
    assert ledger.startswith("the ledger")
    assert prefect == "Prefect's address is one of this machine only"
    await world.prefect.request("DELETE", "/work_pools/containers")


async def test_a_pool_that_was_deleted_is_reported_and_stops_no_other_job(
    world: PrefectWorld,
) -> None:
    await world.prefect.request("POST", "/work_pools/", {"name": "gone", "type": "process"})
    await world.deploy(on_demand=True, pool="gone", name="a-job")
    await world.prefect.request("DELETE", "/work_pools/gone")
    await world.jobs.edit("a-job", prompt="Say more")
    await world.jobs.add("b-job", **ON_DEMAND)
    await world.sync()
    assert (await world.deployments.get("b-job")).work_pool_name == "daybook"
    (missing,) = await checks.of_jobs(world.client)
    assert missing.message == "Prefect has no work pool gone: needed by a-job"


@pytest.fixture
async def worker(world: PrefectWorld, pool: str, tmp_path: Path) -> AsyncIterator[Child]:
    """Run Prefect's process worker in the pool."""
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool]
    child = await children.start(
        "process-worker",
        [*command, "--type", "process", "--name", "theirs"],
        environment={
            **os.environ,
            **SHORT.environment(),
            "PREFECT_WORKER_QUERY_SECONDS": "1",
        },
        log=world.home.logs / "process-worker.log",
        folder=tmp_path,
    )
    yield child
    await child.terminate()


@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_runs_of_a_process_worker_succeed_time_out_are_cancelled_and_lost(
    world: PrefectWorld, pool: str, worker: Child, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "TIMING", SHORT)
    agent = await world.agents.add(WORKS)
    fields: dict[str, Any] = {"agent": agent.name, "session": "new", "pool": pool, "retries": 0}

    async def started(**more: Any) -> str:
        stored = await world.deploy(on_demand=True, **fields, **more)
        run = await world.prefect.custom_run(stored)
        await reached(str(run.id), "running")
        return str(run.id)

    async def reached(flow_run_id: str, status: str) -> RunRow:
        def matches(row: RunRow) -> bool:
            return (row.flow_run_id, row.status) == (flow_run_id, status)

        async def found() -> bool:
            await leases.expire_all(world.ledger)  # as the keeper does
            return any(map(matches, await world.runs.rows()))

        assert await becomes_true(found, SECONDS), worker.tail()
        return next(filter(matches, await world.runs.rows()))

    succeeds = await started()
    agent.release(1)
    assert (await reached(succeeds, "succeeded")).fence == 1
    await reached(await started(timeout="3s"), "timed_out")
    cancelled = await started()
    (row,) = [each for each in await world.runs.rows() if each.flow_run_id == cancelled]
    await api.runs.cancel(row.id)
    await reached(cancelled, "cancelled")
    lost = await started()
    for each in process_tree(worker.process):  # the machine is gone
        os.kill(each.pid, signal.SIGKILL)
    await reached(lost, "unknown")


@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_a_run_whose_environment_has_another_ledger_fails_with_the_reason(
    world: PrefectWorld,
    pool: str,
    worker: Child,
    tmp_path: Path,
) -> None:
    """Without DAYBOOK_LEDGER_URL, the run of an image would use the ledger of the image's home."""
    stored = await world.deploy(
        on_demand=True, pool=pool, job_variables={"env": {"DAYBOOK_HOME": str(tmp_path / "image")}}
    )
    await claims.request(world.ledger, stored, "1", "manual")

    async def failed() -> bool:  # by what the keeper does
        await ended_runs.record_live_ends(world.ledger, world.client)
        await scheduled_runs.ensure_all(world.ledger, world.client)
        return (await world.runs.row()).status == "failed"

    assert await becomes_true(failed, 5 * SECONDS), worker.tail()
    error = str((await world.runs.row()).error)
    assert error.startswith("3 of its Prefect runs ended before it began: Daybook ")
    assert "image/ledger.db is not the ledger of the job; set DAYBOOK_LEDGER_URL" in error
    assert error.endswith(f"; see daybook doctor --pool {pool}")
    found = [each for each in await checks.of_pool(world.client, name=pool) if not each.ok]
    assert [each.title for each in found] == [f"the last run of {stored.job.name} did not begin"]
    assert found[0].why in error
