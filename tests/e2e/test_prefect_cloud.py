"""A whole `daybook up` at a Prefect with an API key, a workspace and a private authority."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from prefect.client.schemas.objects import FlowRun

from daybook.home import CLIENT_CREDENTIAL, SERVER_CREDENTIAL, Home
from tests import certificates, prefect_cloud
from tests.at_prefect import delete_deployments, with_client
from tests.conftest import CREDENTIAL, PrefectServer
from tests.e2e.first_light import Up, environment
from tests.servers import free_port
from tests.timings import SHORT
from tests.waiting import becomes_true
from tests.world.agents import WORKS
from tests.world.home import at_prefect
from tests.world.worker import Worker
from tests.world.workers import PREFECT_LEAVES_A_SOCKET

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(600), *PREFECT_LEAVES_A_SOCKET]

POLL = "/work_pools/daybook/get_scheduled_flow_runs"


def test_everything_works_with_an_api_key_of_a_workspace_and_its_authority(
    prefect_server: PrefectServer, tmp_path: Path
) -> None:
    pem, home = certificates.localhost(tmp_path), Home(tmp_path / "home").make()
    to = urlsplit(prefect_server.api_url).port
    assert to is not None
    with prefect_cloud.serving(free_port(), to, CREDENTIAL, pem) as cloud:
        up = Up(home.path, tmp_path, variables=cloud.environment(CREDENTIAL, pem))
        try:
            up.until(lambda lines: any("succeeded" in each for each in lines), within=300.0)
            report = up.daybook_json("doctor")
            assert {each["severity"] for each in report} == {"ok"}
            prefect = up.daybook_json("status")["prefect"]
            assert (prefect["reachable"], prefect["version"]) == (True, None)
            workspace = "/account/0a1b2c3d/workspace/4e5f6a7b"
            assert prefect["ui_url"] == f"https://localhost:{cloud.port}{workspace}"
            for variables, why in [
                (cloud.environment(CREDENTIAL, None), "set PREFECT_API_SSL_CERT_FILE"),
                (cloud.environment("wrong-key", pem), "the credential in PREFECT_API_KEY is wrong"),
            ]:
                command = [sys.executable, "-m", "daybook", "agents", "list"]
                others = environment(tmp_path / "other") | variables
                done = subprocess.run(
                    command, env=others, capture_output=True, text=True, check=False
                )
                assert done.returncode == 4, done.stdout
                assert why in done.stderr
                assert "wrong-key" not in done.stderr
        finally:
            up.end()
            with_client(delete_deployments)
        # The worker, its runs and the keeper have sent the key, also with their events.
        assert {"/events/in", "/events/out", POLL} <= {
            each.partition("?")[0] for each in cloud.paths
        }
        assert {each.partition(" ")[0] for each in cloud.refused} == {"404", "401"}
        logs = "".join(each.read_text() for each in home.logs.iterdir())
        assert "404" not in logs
        assert "401" not in logs
        assert CREDENTIAL not in logs


@pytest.mark.anyio
async def test_no_run_is_lost_while_the_api_key_is_replaced(
    prefect_server: PrefectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pem = certificates.localhost(tmp_path)
    to = urlsplit(prefect_server.api_url).port
    assert to is not None
    with prefect_cloud.serving(free_port(), to, CREDENTIAL, pem) as cloud:
        async with at_prefect(tmp_path, prefect_server, timing=SHORT) as world:
            monkeypatch.delenv(CLIENT_CREDENTIAL)
            monkeypatch.delenv(SERVER_CREDENTIAL)

            async def begin(key: str) -> Worker:
                variables = cloud.environment(key, pem)
                world.workers.variables |= variables
                return await world.workers.begin(api_url=variables["PREFECT_API_URL"])

            agent = await world.agents.add(WORKS)
            job = await world.deploy(agent=agent.name, session="new", overlap="allow")
            old = await begin(CREDENTIAL)
            active = await world.prefect.custom_run(job)
            await agent.says("running")

            async def status_of(run: FlowRun) -> str:
                rows = {each.flow_run_id: each.status for each in await world.runs.rows()}
                return rows.get(str(run.id), "")

            async def becomes(run: FlowRun, status: str) -> None:
                async def has() -> bool:
                    return await status_of(run) == status

                assert await becomes_true(has, 60.0), world.workers.logs()

            async def poll_was_refused() -> bool:
                return any(each.startswith(f"401 {POLL}") for each in cloud.refused)

            cloud.keys = {"second-key"}
            # A poll that was accepted before may still find a run that is created now.
            assert await becomes_true(poll_was_refused, 60.0), cloud.refused
            due = await world.prefect.custom_run(job)
            agent.release()
            await becomes(active, "succeeded")
            assert (await world.prefect.shown(active))[0] == "RUNNING"
            await old.send_signal(signal.SIGTERM)
            assert await old.wait_for_exit(60.0) == 0
            assert await status_of(due) == ""

            await begin("second-key")
            await world.shows(active, "COMPLETED", within=60.0)
            await agent.says("running")
            agent.release()
            await becomes(due, "succeeded")
            assert agent.effect_count == 2
            assert any(each.startswith("401 ") for each in cloud.refused)
            assert not any(key in world.workers.logs() for key in (CREDENTIAL, "second-key"))
