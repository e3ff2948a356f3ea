"""Runs of jobs in containers, by Prefect's own worker of the type docker.

The test needs a Docker daemon (`DOCKER_HOST`), and `TEST_PREFECT_WORKERS`: a Python of a virtual
environment with `prefect-docker`, which Daybook does not install. The containers see the folders
of this machine, so the image is empty.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import sys
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from daybook import api
from daybook.diagnosis.checks import pools as checks
from daybook.ledger.tables import RunRow
from daybook.processes import children
from daybook.processes.children import Child
from daybook.runs import leases
from tests.timings import SHORT
from tests.waiting import becomes_true
from tests.world.agents import WORKS
from tests.world.prefect_world import PrefectWorld
from tests.world.workers import PREFECT_LEAVES_A_SOCKET

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    *PREFECT_LEAVES_A_SOCKET,
]

POOL, IMAGE = "containers", "daybook-test:empty"
SECONDS = 180.0
FOLDERS = ("/usr", "/bin", "/lib", "/lib64", "/etc", "/tmp")
PASSED_ON = ("DAYBOOK_HOME", "DAYBOOK_LEDGER_URL", "HOME", "PREFECT_HOME", "PYTHONPATH")


async def run(*command: str, given: bytes = b"") -> str:
    """Return the output of a program; raise `AssertionError` if it fails."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, stderr=pipe)
    out, errors = await process.communicate(given)
    assert process.returncode == 0, errors.decode()
    return out.decode().strip()


@pytest.fixture
async def docker_python() -> str:
    """Return the Python of the worker; skip the test without it, or without a daemon."""
    python = os.environ.get("TEST_PREFECT_WORKERS", "")
    if not python:
        pytest.skip("TEST_PREFECT_WORKERS names no Python with prefect-docker")
    try:
        await run("docker", "version")
    except (OSError, AssertionError) as error:
        pytest.skip(f"no Docker daemon answers: {error}")
    empty = io.BytesIO()
    tarfile.open(fileobj=empty, mode="w").close()
    await run("docker", "import", "-", IMAGE, given=empty.getvalue())
    return python


@pytest.fixture
async def pool(world: PrefectWorld, docker_python: str) -> AsyncIterator[str]:
    code = (
        "import json; from prefect_docker.worker import DockerWorker as Worker;"
        "print(json.dumps(Worker.get_default_base_job_template()))"
    )
    template = json.loads((await run(docker_python, "-c", code)).splitlines()[-1])
    new = {"name": POOL, "type": "docker", "base_job_template": template}
    await world.prefect.request("POST", "/work_pools/", new)
    yield POOL
    await world.prefect.request("DELETE", f"/work_pools/{POOL}")
    for each in (await run("docker", "ps", "-aq", "--filter", "label=of=daybook-test")).split():
        await run("docker", "rm", "-f", each)


@pytest.fixture
async def worker(
    world: PrefectWorld, pool: str, docker_python: str, tmp_path: Path
) -> AsyncIterator[Child]:
    command = [docker_python, "-m", "prefect", "worker", "start", "--pool", pool]
    child = await children.start(
        "docker-worker",
        [*command, "--type", "docker", "--name", "theirs"],
        environment={**os.environ, "PREFECT_WORKER_QUERY_SECONDS": "1"},
        log=world.home.logs / "docker-worker.log",
        folder=tmp_path,
    )
    yield child
    await child.terminate()


async def test_runs_in_containers_succeed_time_out_are_cancelled_and_lost(
    world: PrefectWorld, pool: str, worker: Child, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "TIMING", SHORT)
    agent = await world.agents.add(WORKS)
    root, python = Path(__file__).parents[3], (sys.prefix, sys.base_prefix)
    folders = dict.fromkeys([*FOLDERS, str(root), *python, str(world.home.path)])
    path = os.pathsep.join([str(Path(sys.executable).parent), "/usr/bin", "/bin"])
    passed_on = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    variables: dict[str, Any] = {
        "image": IMAGE,
        "image_pull_policy": "Never",
        "network_mode": "host",
        "volumes": [f"{each}:{each}" for each in folders],
        "labels": {"of": "daybook-test"},
        "env": {**passed_on, **SHORT.environment(), "PATH": path},
    }

    async def started(**more: Any) -> str:
        stored = await world.deploy(
            on_demand=True,
            agent=agent.name,
            session="new",
            pool=pool,
            job_variables=variables,
            retries=0,
            **more,
        )
        flow_run = await world.prefect.custom_run(stored)
        await reached(str(flow_run.id), "running")
        return str(flow_run.id)

    async def containers() -> list[str]:
        return (await run("docker", "ps", "-q", "--filter", "label=of=daybook-test")).split()

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
    row = await reached(succeeds, "succeeded")
    assert row.fence == 1
    await reached(await started(timeout="3s"), "timed_out")

    cancelled = await started()
    (row,) = [each for each in await world.runs.rows() if each.flow_run_id == cancelled]
    await api.runs.cancel(row.id)
    await reached(cancelled, "cancelled")

    async def none_left() -> bool:
        return not await containers()

    assert await becomes_true(none_left, SECONDS)
    killed = await started()
    await run("docker", "kill", *(await containers()))
    await reached(killed, "unknown")

    goes_on = await started()
    (found,) = [
        each for each in await checks.of_pool(world.client, name=pool) if each.check == "job pools"
    ]
    assert found.message.startswith(f"{pool} has the type docker")
    await worker.terminate()  # the container does not need the worker
    agent.release(1)
    await reached(goes_on, "succeeded")
