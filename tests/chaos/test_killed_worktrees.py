"""Kill -9 of runs that work in repositories, of their worker with the keeper, and of everything.

Rounds of eight runs begin, and are killed at moments that a seed chooses: during fetch, checkout,
setup, agent, commit, verification, rebase, landing and push. Runs that were killed go on beside the
next round. In the end each change has landed once, and the next run works.
"""

from __future__ import annotations

import os
import random
import signal
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from daybook.agents import documents
from daybook.clock import SYSTEM_CLOCK
from daybook.features.repositories import operations
from daybook.features.repositories.forges import GITEA
from daybook.features.repositories.operations import RepositoryChange
from daybook.features.repositories.tables import ChangeStatus
from daybook.jobs.store import StoredJob
from daybook.resources import secrets
from tests import certificates
from tests.at_prefect import add_document
from tests.coding_agents import UserRepository, command
from tests.conftest import PrefectServer
from tests.git_servers import GitServer, serving_git
from tests.timings import SHORT
from tests.unit.features.repositories.forge_servers import TOKEN, ApiOf, ForgeServer
from tests.unit.features.repositories.projects import at
from tests.waiting import becomes_true
from tests.world.home import at_prefect
from tests.world.prefect_world import PrefectWorld
from tests.world.worker import Worker
from tests.world.workers import PREFECT_LEAVES_A_SOCKET

pytestmark = [
    *(pytest.mark.anyio, pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(900)),
    *PREFECT_LEAVES_A_SOCKET,
]

SEED = 60
ROUNDS = ("runs", "all", "worker", "all", "runs", "worker", "all", "all")
RUNS = 8
LONGEST_SECONDS = 7.0
"""The longest time from the request of a round's runs to its kill."""
WITHIN = 300.0

JOBS: dict[str, dict[str, Any]] = {
    "auto": {"land": "auto"},
    "branch": {"land": "branch"},
    "elsewhere": {"land": "auto"},
    "propose": {"land": "pull-request", "forge": "gitea"},
}
SETUP = ("sh", "-c", "sleep 0.2; echo ready > setup.ignored")
VERIFY = ("sh", "-c", "sleep 0.2; test -e setup.ignored")


async def pause(seconds: float) -> None:
    await SYSTEM_CLOCK.wait_until(SYSTEM_CLOCK.now() + timedelta(seconds=seconds))


class Killed:
    """The jobs, and the names of their runs."""

    def __init__(self, world: PrefectWorld, repository: UserRepository, server: GitServer) -> None:
        self.world, self.repository, self.server = world, repository, server
        self.jobs = dict[str, StoredJob]()
        self.names = list[str]()
        self.count = 0
        """The number of runs that were killed."""

    async def add_jobs(self) -> None:
        client = self.world.client
        await documents.add(client, "coder", "command", {"command": command(self.root)})
        self.world.agents.models.append("coder")
        secret = {"value": TOKEN, "hosts": ["127.0.0.1"]}
        await add_document(secrets.STORE, client, "forge", secret)
        common = {"on_lost": "rerun", "retries": 9, "retry_delay": "1s", "overlap": "allow"}
        common |= {"timeout": "2m", "setup": SETUP, "verify": VERIFY, "ref": "main"}
        here = {"repo": str(self.repository.folder)}
        there = {"repo": f"{self.server.address}/team/shop.git", "repo_secret": "forge"}
        for name, fields in JOBS.items():
            policy = fields | common | (here if name in ("auto", "branch") else there)
            self.jobs[name] = await self.world.deploy(agent="coder", session="new", policy=policy)

    @property
    def root(self) -> Path:
        return self.world.workers.root

    async def ask(self, number: int, count: int = RUNS) -> None:
        """Request the runs of a round."""
        for run in range(count):
            job = [*JOBS][run % len(JOBS)]
            name = f"{job}-{number}-{run}"
            way = ("edit", "both")[run // len(JOBS)]
            await self.world.prefect.custom_run(self.jobs[job], prompt=f"work as {name}: {way}")
            self.names.append(name)

    def kill(self, what: str, worker: Worker) -> None:
        pids = [each.pid for each in worker.heads()] if what in ("runs", "all") else []
        self.count += len(pids)
        if what in ("worker", "all"):
            pids.append(worker.pid)
        if what == "all":  # and each git, agent and verification
            pids += [*self.world.workers.living()]
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    async def changes(self) -> list[RepositoryChange]:
        """Wait until all runs have ended and all changes have landed."""

        async def it_is() -> bool:
            rows = await self.world.runs.rows()
            if len(rows) < len(self.names) or not all(each.finished_at for each in rows):
                return False
            found = await operations.list_changes(999)
            return all(each.status != ChangeStatus.LANDING for each in found)

        if not await becomes_true(it_is, WITHIN):
            live = [each for each in await self.world.runs.rows() if not each.finished_at]
            raise AssertionError(f"{live}\n{self.world.workers.logs()}")
        return await operations.list_changes(999)


async def test_each_change_of_killed_runs_lands_once(
    prefect_server: PrefectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose = random.Random(SEED)
    repository = UserRepository.create(tmp_path / "project", [])
    before = repository.content()
    bare = tmp_path / "server" / "team" / "shop.git"
    bare.parent.mkdir(parents=True)
    at(bare.parent, "clone", "-q", "--bare", "-b", "main", str(repository.folder), "shop.git")
    certificate = certificates.localhost(tmp_path)
    for name in ("GIT_SSL_CAINFO", "GIT_SSL_CAPATH"):
        monkeypatch.delenv(name, raising=False)
    async with at_prefect(tmp_path, prefect_server, timing=SHORT) as world:
        monkeypatch.setenv("DAYBOOK_HOME", str(world.home.path))
        with serving_git(tmp_path / "server", certificate) as server:
            world.workers.variables |= {
                "DAYBOOK_ALLOWED_WORK_DIRS": str(tmp_path),
                "GIT_CONFIG_SYSTEM": os.devnull,
                "SSL_CERT_FILE": str(certificate),
            }
            server.tokens = {TOKEN}
            forge = ForgeServer(GITEA, ApiOf(server))
            killed = Killed(world, repository, server)
            await killed.add_jobs()
            worker = await world.workers.begin(most=RUNS)
            for number, what in enumerate(ROUNDS):
                await killed.ask(number)
                await pause(choose.uniform(0.5, LONGEST_SECONDS))
                killed.kill(what, worker)
                if what != "runs":
                    worker = await world.workers.begin(most=RUNS)
            await killed.ask(len(ROUNDS), 4)  # the next runs work
            changes = await killed.changes()
            rows = await world.runs.rows()

        assert killed.count >= len(ROUNDS)
        assert {each.status for each in rows} == {"succeeded"}, [each.error for each in rows]
        assert len(changes) == len(killed.names) == len(rows)
        check(changes, killed, forge, bare)
        assert repository.content() == before
        repository.check()
        stores = [*(world.home.path / "repositories").glob("*/store.git")]
        assert len(stores) == 2
        for each in (*stores, bare):
            assert not at(each, "fsck", "--full", "--no-dangling")
        assert not [*(repository.folder / ".git").rglob("*.lock")]


def check(changes: list[RepositoryChange], killed: Killed, forge: ForgeServer, bare: Path) -> None:
    """Check that each change is where its job wants it, once."""
    at_folder, at_server = (
        at(each, "log", "--format=%s%n%b", "main").splitlines()
        for each in (killed.repository.folder, bare)
    )
    jobs = {stored.id: name for name, stored in killed.jobs.items()}
    done = {"auto": ChangeStatus.LANDED, "elsewhere": ChangeStatus.LANDED}
    done |= {"branch": ChangeStatus.BRANCHED, "propose": ChangeStatus.PROPOSED}
    proposed = list[str]()
    for change in changes:
        job = jobs[str(change.job_id)]
        assert change.status == done[job], (job, change.problem)
        assert change.changed_files in (1, 2)
        lines = at_folder if job == "auto" else at_server
        count = lines.count(f"Daybook-Run: {change.run_id}")
        assert count == (change.status == ChangeStatus.LANDED), change.run_id
        if job == "branch":
            assert at(killed.repository.folder, "rev-parse", change.branch) == change.head
        if job == "propose":
            assert at(bare, "rev-parse", change.branch) == change.head
            proposed.append(change.branch)
    assert sorted(each["branch"] for each in forge.requests) == sorted(proposed)
    for name in killed.names:
        if name.startswith(("auto", "elsewhere")):
            folder = killed.repository.folder if name.startswith("auto") else bare
            assert at(folder, "show", f"main:work/{name}.txt") == name
