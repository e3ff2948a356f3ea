"""`daybook doctor` at a real server: missing parts, and a worker without Daybook."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import sysconfig
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from daybook.agents import documents
from daybook.clock import SYSTEM_CLOCK
from daybook.diagnosis import doctor
from daybook.diagnosis.checks import prefect
from daybook.finding import Finding
from daybook.home import Home
from daybook.jobs import store
from daybook.jobs.model import new_job
from daybook.ledger.engine import Ledger
from daybook.operations import setup
from daybook.prefect import parameter_schema, work_pool
from daybook.processes import children
from tests.at_prefect import delete_deployments
from tests.world.prefect import forget_workers

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]

STRANGERS = "strangers"
"""A pool that does not belong to Daybook; Prefect creates it for its worker."""
MADE = datetime(2026, 11, 2, 8, 0, tzinfo=UTC)


@pytest.fixture
async def client(prefect_server: Any, daybook_home: Home) -> AsyncIterator[Any]:
    from prefect.client.orchestration import get_client

    async with get_client() as client:
        await delete_deployments(client)
        await work_pool.ensure(client)
        await forget_workers(client)
        yield client


def problems(found: list[Finding], check: str) -> list[tuple[str, str]]:
    return [(f.message, f.fix) for f in found if f.check == check and not f.ok]


async def test_doctor_reports_a_missing_worker_agent_tool_and_secret(
    client: Any, daybook_home: Home, tmp_path: Path
) -> None:
    await setup.prepare(client)
    script = tmp_path / "agent.sh"
    script.write_text("#!/bin/sh\r\necho hi\r\n")
    script.chmod(0o700)
    users = [("notified", "default"), ("lost", "gone"), ("a", "crlf"), ("b", "crlf")]
    settings = {"command": [str(script)]}
    await documents.add(client, "crlf", "command", settings, replace=True)
    address = f"sqlite+aiosqlite:///{daybook_home.path / 'ledger.db'}"
    async with Ledger(address) as ledger, ledger.write() as session:
        for name, agent in users:
            job = new_job(now=MADE, prompt="Hello?", name=name, agent=agent, on_demand=True)
            await store.add(session, job, name, MADE)
        spare: dict[str, Any] = {"prompt": "Hello?", "name": "spare", "fallback_agents": ["gone"]}
        await store.add(session, new_job(now=MADE, on_demand=True, **spare), "spare", MADE)
        params = {"key": "{{secret:gone}}"}
        job = new_job(now=MADE, tool="nowhere.reindex", name="renew", params=params, on_demand=True)
        await store.add(session, job, "renew", MADE)
    found = await doctor.doctor()
    assert {each.check for each in found if not each.ok} == {
        *("sync", "worker", "agents"),
        *("tools", "secrets"),
    }
    ((what, fix),) = problems(found, "worker")
    assert what == "no worker is online, so nothing runs"
    assert fix == "daybook up"
    lost, unspared, unstarted = sorted(problems(found, "agents"))
    why = f"the agent crlf of a, b cannot answer: {script} has Windows line endings"
    assert unstarted[0].startswith(why)
    assert unstarted[1].endswith("daybook agents edit daybook-command-agent/crlf …")
    await documents.remove(client, "crlf")  # the server is shared with other tests
    assert lost[0] == "lost uses the agent gone, which does not exist"
    assert lost[1].startswith("daybook agents add gone")
    assert lost[1].endswith("daybook edit lost --agent <name>")
    assert unspared[0] == "spare uses the agent gone, which does not exist"
    assert unspared[1].endswith("daybook edit spare --fallback-agent <name>")
    ((what, fix),) = problems(found, "tools")
    assert what == 'renew calls the tool nowhere.reindex: unknown "nowhere.reindex"'
    assert "daybook edit renew --tool" in fix
    ((what, fix),) = problems(found, "secrets")
    assert what == "renew uses the secret gone, which does not exist"
    assert fix.startswith("daybook secrets add gone")


@pytest.fixture
async def stranger(client: Any, daybook_home: Home, tmp_path: Path) -> AsyncIterator[None]:
    """Run one of Prefect's own workers in an environment that has Prefect but not Daybook."""
    place = tmp_path / "venv"
    make = [sys.executable, "-m", "venv", "--without-pip", str(place)]
    await asyncio.to_thread(subprocess.run, make, check=True)
    # Everything in the tests' environment, except editable installs.
    (folder,) = (place / "lib").glob("python*/site-packages")
    (folder / "rest.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pool = ["--pool", STRANGERS, "--type", "process", "--name", "stranger"]
    child = await children.start(
        "stranger",
        [str(place / "bin" / "python"), "-m", "prefect", "worker", "start", *pool],
        environment={**os.environ, "PYTHONPATH": "", "PREFECT_WORKER_QUERY_SECONDS": "1"},
        log=daybook_home.logs / "stranger.log",
        folder=tmp_path,
    )
    try:
        yield None
    finally:
        await child.terminate()


async def _logged(client: Any, flow_run_id: UUID, *expected: str) -> None:
    """Wait for these log lines; the worker and the run's process send theirs separately."""
    from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId

    of_run = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[flow_run_id]))
    async with asyncio.timeout(30):
        while True:
            lines = [log.message for log in await client.read_logs(of_run)]
            if all(any(each in line for line in lines) for each in expected):
                return
            await SYSTEM_CLOCK.wait_until(SYSTEM_CLOCK.now() + timedelta(seconds=0.1))


async def _pool_is_there(client: Any) -> None:
    from prefect.exceptions import ObjectNotFound

    async with asyncio.timeout(90):
        while True:
            try:
                await client.read_work_pool(STRANGERS)
                return
            except ObjectNotFound:
                await SYSTEM_CLOCK.wait_until(SYSTEM_CLOCK.now() + timedelta(seconds=0.1))


@pytest.mark.timeout(400)
@pytest.mark.usefixtures("stranger")
@pytest.mark.slow
async def test_doctor_names_a_worker_that_cannot_import_daybook(client: Any) -> None:
    from prefect.flow_runs import wait_for_flow_run
    from prefect.states import Scheduled

    assert await prefect.runs(client) == []
    await _pool_is_there(client)
    flow_id = await client.create_flow_from_name("agent-prompt")
    deployment = await client.create_deployment(
        flow_id,
        name="for-a-stranger",
        parameters={"prompt": "Hello?"},
        **parameter_schema.execution_fields("agent-prompt") | {"work_pool_name": STRANGERS},
    )
    try:
        asked = await client.create_flow_run_from_deployment(deployment, state=Scheduled())
        run: Any = await wait_for_flow_run(asked.id, timeout=150)
        assert run.state.is_final()
        assert not run.state.is_completed()
        await _logged(client, asked.id, "Worker 'stranger' submitting", "deployment step: enter")
        (problem,) = await prefect.runs(client)
        assert run.name in problem.message
        assert "the worker stranger cannot import daybook" in problem.message
        assert "pip install" in problem.fix
    finally:
        await client.delete_deployment(deployment)
        await client.delete_flow_run(asked.id)
