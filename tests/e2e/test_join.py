"""Two homes, as on two machines: the second one joins the ledger of the first."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from prefect.settings import get_current_settings

from daybook.home import Home
from daybook.prefect import instances
from daybook.prefect.report import ReconcileReport
from daybook.processes import children
from tests import databases
from tests.conftest import PrefectServer
from tests.databases import Postgresql
from tests.timings import SHORT
from tests.waiting import becomes_true
from tests.world.agents import WORKS
from tests.world.home import at_prefect
from tests.world.worker import Worker
from tests.world.workers import PREFECT_LEAVES_A_SOCKET

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.slow, *PREFECT_LEAVES_A_SOCKET]


MAIN = "import sys; from daybook.cli.entry import main; sys.exit(main())"
LET_LOOPBACK_PASS = """
from daybook.features.workers import invitation
invitation.is_loopback = lambda host: False
"""
"""Code for a process: the machines of this test are one, at a loopback address."""


def daybook(*words: str, given: str = "", before: str = "", **variables: str) -> str:
    """Run a command in a process of its own, without this process's Prefect and home."""
    names = ("PREFECT_", "DAYBOOK_")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(names)}
    done = subprocess.run(
        [sys.executable, "-c", before + MAIN, *words],
        env=clean | variables,
        input=given,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.timeout(400)
async def test_two_homes_share_a_ledger_and_a_prefect_and_both_run_jobs(
    request: pytest.FixtureRequest, prefect_server: PrefectServer, tmp_path: Path
) -> None:
    database = databases.of_kind("postgresql", tmp_path / "db", databases.server_of(request))
    assert isinstance(database, Postgresql)
    second, invitation = Home(tmp_path / "second"), tmp_path / "invitation.json"
    auth = get_current_settings().api.auth_string
    credential = auth.get_secret_value() if auth else ""
    outside = {"HOME": str(tmp_path)}  # no Prefect profile
    async with at_prefect(tmp_path, prefect_server, database, timing=SHORT) as world:
        # As the leader does when it starts.
        assert not await instances.is_same_instance(world.ledger, world.client, ReconcileReport())
        agent = await world.agents.add(WORKS)
        job = await world.deploy(agent=agent.name, session="new", overlap="allow")
        there = {
            **outside,
            "DAYBOOK_HOME": str(world.home.path),
            "DAYBOOK_LEDGER_URL": database.url,
            "DAYBOOK_MAX_CONCURRENT": "2",
            "PREFECT_API_URL": prefect_server.api_url,
            "PREFECT_API_AUTH_STRING": credential,
        }
        daybook("invite", str(invitation), before=LET_LOOPBACK_PASS, **there)
        assert invitation.stat().st_mode & 0o777 == 0o600
        here = {**outside, "DAYBOOK_HOME": str(second.path)}
        joined = daybook("join", "@-", "--key-file", str(invitation), given=database.url, **here)
        assert "max_concurrent = 2" in joined
        assert credential and credential not in joined
        assert second.ledger_key.read_text() == world.home.ledger_key.read_text()

        await world.workers.begin(limit=1, most=2, name=world.home.worker_name)
        clean = {each: value for each, value in os.environ.items() if each[:8] != "PREFECT_"}
        child = await children.start(
            "worker",
            [sys.executable, "-m", "daybook", "worker", "--limit", "1"],
            environment=clean | here | SHORT.environment(),
            log=tmp_path / "second.log",
            folder=tmp_path,
        )
        world.workers.all.append(Worker(child))

        async def has_started() -> bool:
            return "started!" in child.tail(10_000)

        assert await becomes_true(has_started, 90.0), child.tail()
        runs = [await world.prefect.custom_run(job) for _ in range(2)]

        async def both_run() -> bool:
            rows = await world.runs.rows()
            return [row.status for row in rows] == ["running", "running"]

        assert await becomes_true(both_run, 60.0), world.workers.logs()
        names = {row.holder.split(":")[3] for row in await world.runs.rows()}
        assert names == {world.home.worker_name, f"{second.worker_name}-2"}
        listed = daybook("workers", "list", **here)
        assert all(name in listed for name in names)
        agent.release(2)
        for row in await world.runs.rows():
            await world.wait_for_end(row, "succeeded", within=60.0)
        assert len(runs) == agent.effect_count == 2
