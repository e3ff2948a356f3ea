"""Daybook's worker as a child process: it comes online, runs a flow, and ends with its runs."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from daybook.errors import InvalidInput
from daybook.home import Home
from daybook.operations import worker
from daybook.operations.prefect_selection import SelectedPrefect
from daybook.prefect import work_pool
from daybook.processes import proc

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]

# Prints its own pid and that of a program in a process session of its own; never ends.
FLOW = """
import os, signal, subprocess, sys
from prefect import flow

@flow
async def endless(pipe: str) -> None:
    program = [sys.executable, "-c", "import signal; signal.pause()"]
    with subprocess.Popen(program, start_new_session=True) as other, open(pipe, "w") as out:
        print(os.getpid(), other.pid, file=out, flush=True)
        out.close()
        other.wait()
"""


@pytest.fixture
async def client(prefect_server: Any) -> AsyncIterator[Any]:
    from prefect.client.orchestration import get_client

    async with get_client() as client:
        yield client


async def test_the_work_pool_is_created_once_and_another_type_is_refused(
    client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.client.schemas.actions import WorkPoolCreate

    await work_pool.ensure(client)
    first = await client.read_work_pool(worker.POOL)
    await work_pool.ensure(client)
    # Prefect itself changes the status of a pool.
    again = await client.read_work_pool(worker.POOL)
    kept = {"id", "name", "type", "description", "base_job_template"}
    assert again.model_dump(include=kept) == first.model_dump(include=kept)
    assert first.type == "daybook"
    assert "working_dir" in first.base_job_template["variables"]["properties"]
    await client.create_work_pool(WorkPoolCreate(name="other-pool", type="docker"))
    monkeypatch.setattr(work_pool, "WORK_POOL", "other-pool")
    with pytest.raises(InvalidInput, match="type docker"):
        await work_pool.ensure(client)


@pytest.mark.slow
async def test_a_worker_comes_online_and_its_runs_end_with_it(
    client: Any, prefect_server: Any, daybook_home: Home, tmp_path: Path
) -> None:
    from prefect.states import Scheduled

    await work_pool.ensure(client)
    before = await worker.last_heartbeat(client, daybook_home)
    assert before is None
    selected = SelectedPrefect(prefect_server.api_url, prefect_server.ui_url)
    child = await worker.start(daybook_home, selected)
    try:
        beat = await worker.wait_until_online(client, daybook_home, before=before)
        assert await worker.last_heartbeat(client, daybook_home) == beat
        (tmp_path / "endless.py").write_text(FLOW)
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        flow_id = await client.create_flow_from_name("endless")
        deployment = await client.create_deployment(
            flow_id,
            name="endless",
            work_pool_name=worker.POOL,
            entrypoint="endless.py:endless",
            pull_steps=[
                {"prefect.deployments.steps.set_working_directory": {"directory": str(tmp_path)}}
            ],
        )
        await client.create_flow_run_from_deployment(
            deployment, parameters={"pipe": str(pipe)}, state=Scheduled()
        )
        async with asyncio.timeout(60):
            text = await asyncio.to_thread(pipe.read_text)
        running = [proc.find(int(pid)) for pid in text.split()]
        assert len(running) == 2
        assert None not in running
        assert {p.pid for p in proc.process_tree(child.process)} >= {int(p) for p in text.split()}
    finally:
        await child.terminate(grace=1.0)
    assert [proc.find(p.pid, p.started) for p in running if p is not None] == [None, None]
