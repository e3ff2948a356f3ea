"""`prefect deploy --all` in a fresh clone at a bare Prefect, and a run of its deployment."""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.client.orchestration import PrefectClient
from sqlmodel import select

from daybook import repository
from daybook.files.jobs_file import FileText, job_fields
from daybook.home import CLIENT_CREDENTIAL, Home
from daybook.jobs import store as stored
from daybook.jobs.actions import ACTIONS
from daybook.jobs.model import new_job
from daybook.ledger.engine import Ledger
from daybook.ledger.tables import RunRow
from daybook.operations import server
from daybook.prefect import parameter_schema, reconcile
from tests.servers import free_port, migrate

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.slow]

TREE = ("daybook", "flows", "blocks", "deployments", "prefect.yaml", "pyproject.toml")
TEAM = """\
jobs:
  - name: standup
    prompt: Summarise yesterday.
    schedule: {cron: "45 8 * * 1-5", timezone: Europe/Berlin}
"""


@dataclass
class Machine:
    """A clone and a bare Prefect server; only the clone's package is importable."""

    clone: Path
    home: Home
    api_url: str
    environment: dict[str, str]

    async def run(self, *command: str, folder: Path | None = None) -> str:
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=folder or self.clone,
            env=self.environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output = (await process.communicate())[0].decode()
        assert process.returncode == 0, output
        return output

    def client(self) -> PrefectClient:
        return PrefectClient(self.api_url, auth_string=self.home.credential())

    async def sync(self) -> str:
        return await self.run(sys.executable, "-m", "daybook", "sync")

    async def deploy(self) -> str:
        # The script that pip installs puts its own folder on the path, not the current one.
        script = Path(sys.executable).parent / "prefect"
        return await self.run(str(script), "deploy", "--all")


@pytest.fixture
async def machine(daybook_home: Home, tmp_path: Path) -> AsyncIterator[Machine]:
    """Yield a clone with a server of its own; other tests have made the session's work pool."""
    clone, path = tmp_path / "clone", tmp_path / "path"
    ignored = shutil.ignore_patterns("__pycache__")
    clone.mkdir()
    for name in TREE:
        source = repository.root() / name
        if source.is_dir():
            shutil.copytree(source, clone / name, ignore=ignored)
        else:
            shutil.copy(source, clone / name)
    path.mkdir()
    (path / "daybook").symlink_to(clone / "daybook")
    port = free_port()
    child = await server.start(migrate(daybook_home), port)
    try:
        await server.wait_until_healthy(server.api_url(port), child=child)
        environment = {
            **server.environment(daybook_home, port),
            "DAYBOOK_HOME": str(daybook_home.path),
            CLIENT_CREDENTIAL: daybook_home.credential(),  # as `daybook env` prints it
            "PYTHONPATH": str(path),
        }
        yield Machine(clone, daybook_home, server.api_url(port), environment)
    finally:
        await child.terminate()


@pytest.mark.timeout(300)
async def test_a_second_deploy_all_changes_nothing_and_its_deployment_runs(
    machine: Machine, tmp_path: Path
) -> None:
    from prefect.deployments import run_deployment

    missing = r"work\s+pool\s+'daybook'\s+which\s+does\s+not\s+exist"
    with pytest.raises(AssertionError, match=missing):
        await machine.deploy()
    async with machine.client() as client:
        assert await client.read_work_pools() == []  # the import of a flow creates nothing
    await machine.sync()
    output = await machine.deploy()
    assert "'agent-prompt/on-demand' successfully created" in output
    assert machine.home.path.joinpath("ledger.db").exists()
    async with machine.client() as client:
        first = await client.read_deployment_by_name("agent-prompt/on-demand")
        fields = parameter_schema.execution_fields("agent-prompt")
        assert {name: getattr(first, name) for name in fields} == fields
        assert (first.parameters, first.schedules, first.paused) == ({}, [], False)
        agents = await client.read_block_documents_by_type("daybook-offline-agent")
        pool = await client.read_work_pool("daybook")
        assert pool.type == "daybook"

        await machine.deploy()
        again = await client.read_deployment_by_name("agent-prompt/on-demand")
        assert again.model_dump(exclude={"updated"}) == first.model_dump(exclude={"updated"})
        assert await client.read_block_documents_by_type("daybook-offline-agent") == agents
        assert (await client.read_work_pool("daybook")).updated == pool.updated

        run: Any = run_deployment(
            "agent-prompt/on-demand",
            parameters={"prompt": "What is on today?"},
            timeout=0,
            as_subflow=False,
            client=client,
        )
        asked = await run
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        worker = ["-m", "prefect", "worker", "start", "--pool", "daybook", "--run-once"]
        log = await machine.run(sys.executable, *worker, folder=elsewhere)
        ended = await client.read_flow_run(asked.id)
        assert ended.state is not None
        assert ended.state.is_completed(), log
    async with (
        Ledger(f"sqlite+aiosqlite:///{machine.home.path / 'ledger.db'}") as ledger,
        ledger.read() as session,
    ):
        (row,) = (await session.execute(select(RunRow))).scalars().all()
    assert (row.status, row.trigger, row.flow_run_id) == ("succeeded", "manual", str(asked.id))
    assert row.job_id is None
    assert "What is on today?" in str(row.output)


def _name(each: stored.StoredJob) -> str:
    return each.row.name


@pytest.mark.timeout(300)
async def test_a_deployment_with_a_prompt_is_adopted_and_stays_the_same_job(
    machine: Machine,
) -> None:
    """The file's templates have no prompt, so they stay Prefect's own (requirement 53)."""
    file = machine.clone / "prefect.yaml"
    content = yaml.safe_load(file.read_text())
    content["deployments"].append(
        {
            "name": "morning",
            "entrypoint": "flows/agent_prompt.py:agent_prompt",
            "work_pool": {"name": "daybook"},
            "tags": ["team"],
            "parameters": {"prompt": "What is on today?"},
            "schedules": [{"cron": "0 9 * * 1-5", "timezone": "Europe/Berlin"}],
        }
    )
    content["deployments"].append(
        {
            "name": "asked",
            "entrypoint": "flows/agent_prompt.py:agent_prompt",
            "work_pool": {"name": "daybook"},
            "parameters": {"prompt": "What is on today?"},
            "schedules": None,
        }
    )
    file.write_text(yaml.safe_dump(content))
    team = machine.clone / "deployments" / "jobs" / "team.yaml"
    team.write_text(TEAM)
    await machine.sync()
    assert "add job standup" in await machine.deploy()
    address = f"sqlite+aiosqlite:///{machine.home.path / 'ledger.db'}"
    async with Ledger(address) as ledger, machine.client() as client:
        report = await reconcile.reconcile_all(ledger, client)
        assert sorted(report.adopted) == ["asked", "morning"]
        kinds = ("agent-prompt", "heartbeat", "tool-call", "webhook")
        assert sorted(report.foreign) == [f"{kind}/on-demand" for kind in kinds]
        async with ledger.read() as session:
            asked, before, applied = sorted(await stored.all_jobs(session), key=_name)
        assert (applied.row.owner, applied.row.sync_pending) == ("file:deployments", False)
        standup = await client.read_deployment_by_name("agent-prompt/standup")
        assert standup.parameters["prompt"] == "Summarise yesterday."
        tag = f"daybook:{ledger.id}"
        assert (before.row.owner, before.row.tags) == ("prefect", ["team"])
        assert tag in (await client.read_deployment_by_name("agent-prompt/morning")).tags

        async with ledger.write() as session:
            off = asked.job.model_copy(update={"enabled": False})
            why = "paused: holiday"
            await stored.change(session, asked, off, ledger.now(), disabled_reason=why)
        assert (await reconcile.reconcile_all(ledger, client)).updated == ["asked"]

        # It resets all fields to the file's, the ledger's tag too, and changes no applied job.
        assert "job standup" not in await machine.deploy()
        same = await client.read_deployment_by_name("agent-prompt/standup")
        assert same.updated == standup.updated
        assert (await client.read_deployment_by_name("agent-prompt/morning")).tags == ["team"]
        paused = await client.read_deployment_by_name("agent-prompt/asked")
        assert (paused.tags, paused.paused) == ([], False)  # the file contains neither
        report = await reconcile.reconcile_all(ledger, client)
        assert (report.adopted, report.failed, report.refused) == ([], {}, {})
        async with ledger.read() as session:
            asked, after, _ = sorted(await stored.all_jobs(session), key=_name)
        assert (after.id, after.job) == (before.id, before.job)
        assert (asked.job.enabled, asked.row.disabled_reason) == (False, why)
        assert (await client.read_deployment_by_name("agent-prompt/asked")).paused
        assert tag in (await client.read_deployment_by_name("agent-prompt/morning")).tags
        assert (await reconcile.reconcile_all(ledger, client)).writes == 0

        team.write_text(TEAM.replace("prompt:", "promt:"))
        with pytest.raises(AssertionError, match=r"team\.yaml:3:5: standup: promt: unknown field"):
            await machine.deploy()


def test_prefect_yaml_has_the_same_execution_fields_as_sync() -> None:
    content = yaml.safe_load((repository.root() / "prefect.yaml").read_text())
    assert content["pull"] == parameter_schema.PULL_STEPS
    entrypoints = [each["entrypoint"] for each in content["deployments"]]
    assert entrypoints == [parameter_schema.entrypoint(kind) for kind in ACTIONS]
    for deployment in content["deployments"]:
        assert deployment["work_pool"] == {"name": parameter_schema.WORK_POOL}
        # Without the key, `prefect deploy` asks a person at a terminal for schedules.
        assert deployment["schedules"] is None
    assert "build" not in content


def test_every_example_file_is_a_valid_job() -> None:
    from daybook.clock import SYSTEM_CLOCK

    folder = repository.root() / "deployments" / "jobs"
    files = sorted(folder.glob("*.yaml"))
    assert [file.name for file in files] == ["example.yaml"]
    (fields,) = job_fields(FileText(files[0].name, files[0].read_text()))
    job = new_job(now=SYSTEM_CLOCK.now(), default_timezone="America/New_York", **fields)
    assert job.name == "first-light"
    assert job.schedule.describe() == "at 09:00 every day, America/New_York"
