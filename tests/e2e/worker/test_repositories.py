"""Fifty runs of five jobs on one repository at once, and proposals at a git server beside them."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from daybook.agents import documents
from daybook.errors import NotFound
from daybook.features.repositories import operations
from daybook.features.repositories.forges import GITEA
from daybook.features.repositories.operations import RepositoryChangeDetails
from daybook.features.repositories.tables import ChangeStatus
from daybook.jobs.store import StoredJob
from daybook.ledger.tables import RunRow
from daybook.resources import secrets
from tests import certificates
from tests.at_prefect import add_document
from tests.coding_agents import VERIFY, UserRepository, command, files_of
from tests.conftest import PrefectServer
from tests.git_servers import GitServer, serving_git
from tests.unit.features.repositories.forge_servers import TOKEN, ApiOf, ForgeServer
from tests.unit.features.repositories.projects import at
from tests.waiting import becomes_true
from tests.world.home import at_prefect
from tests.world.prefect_world import PrefectWorld
from tests.world.workers import PREFECT_LEAVES_A_SOCKET, SEEN

pytestmark = [
    *(pytest.mark.anyio, pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(600)),
    *PREFECT_LEAVES_A_SOCKET,
]

WAYS = (
    *("edit", "commit", "both", "break", "delete", "conflict", "hang", "daemon", "meddle"),
    "nothing",
)
JOBS: dict[str, dict[str, Any]] = {
    "auto": {"land": "auto", "verify": VERIFY},
    "again": {"land": "auto", "verify": VERIFY},
    "review": {"land": "review"},
    "branch": {"land": "branch"},
    "verified": {"land": "branch", "verify": VERIFY},
}
PROPOSED = ("edit", "commit", "break", "meddle")
NAMES = {f"{job}-{way}": (job, way) for job in JOBS for way in WAYS}
MOST = 8
WITHIN = 300.0


async def test_fifty_runs_lose_no_change_and_touch_nothing_of_the_user(
    prefect_server: PrefectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = UserRepository.create(tmp_path / "project", [*NAMES])
    before = repository.content()
    bare = tmp_path / "server" / "team" / "shop.git"
    bare.parent.mkdir(parents=True)
    at(bare.parent, "clone", "-q", "--bare", "-b", "main", str(repository.folder), "shop.git")
    certificate = certificates.localhost(tmp_path)
    variables = {"SSL_CERT_FILE": str(certificate), "GIT_CONFIG_SYSTEM": os.devnull}
    for name in ("GIT_SSL_CAINFO", "GIT_SSL_CAPATH"):
        monkeypatch.delenv(name, raising=False)
    async with at_prefect(tmp_path, prefect_server) as world:
        monkeypatch.setenv("DAYBOOK_HOME", str(world.home.path))
        with serving_git(tmp_path / "server", certificate) as server:
            world.workers.variables |= variables | {"DAYBOOK_ALLOWED_WORK_DIRS": str(tmp_path)}
            server.tokens = {TOKEN}
            forge = ForgeServer(GITEA, ApiOf(server))
            runs = await asked(world, repository, server)
            await world.workers.begin(most=MOST)
            rows = await ended(world, runs)
            await world.workers.idle(within=SEEN)
            changes = {name: await change_of(row) for name, row in rows.items()}
            await check_outcomes(rows, changes)
            check_proposals(changes, forge, bare)
        check_branches(changes, repository)
        await check_reviews(changes, repository)
        repository.check()
        assert repository.content() == before
        for store in (world.home.path / "repositories").glob("*/store.git"):
            assert not at(store, "fsck", "--full", "--no-dangling", "--connectivity-only")
            assert not [*store.rglob("*.lock")]


async def asked(
    world: PrefectWorld, repository: UserRepository, server: GitServer
) -> dict[str, UUID]:
    """Request all runs; return the ids of Prefect's runs by their names."""
    await documents.add(world.client, "coder", "command", {"command": command(world.workers.root)})
    world.agents.models.append("coder")
    secret = {"value": TOKEN, "hosts": ["127.0.0.1"]}
    await add_document(secrets.STORE, world.client, "forge", secret)
    common = {"timeout": "30s", "overlap": "allow"}
    jobs = dict[str, StoredJob]()
    for name, fields in JOBS.items():
        policy = fields | common | {"repo": str(repository.folder), "ref": "main"}
        jobs[name] = await deployed(world, policy)
    at_server = {"repo": f"{server.address}/team/shop.git", "repo_secret": "forge"}
    policy = at_server | common | {"land": "pull-request", "forge": "gitea"}
    jobs["propose"] = await deployed(world, policy)
    names = NAMES | {f"propose-{way}": ("propose", way) for way in PROPOSED}
    runs = dict[str, UUID]()
    for name, (job, way) in names.items():
        prompt = f"work as {name}: {way}"
        runs[name] = (await world.prefect.custom_run(jobs[job], prompt=prompt)).id
    return runs


async def deployed(world: PrefectWorld, policy: dict[str, Any]) -> StoredJob:
    return await world.deploy(agent="coder", session="new", policy=policy)


async def ended(world: PrefectWorld, runs: dict[str, UUID]) -> dict[str, RunRow]:
    """Wait until all runs have an outcome; return their rows by their names."""

    async def they_have() -> bool:
        rows = await world.runs.rows()
        if len(rows) < len(runs) or not all(each.finished_at for each in rows):
            return False
        return all(
            each.status != ChangeStatus.LANDING for each in await operations.list_changes(99)
        )

    if not await becomes_true(they_have, WITHIN):
        live = [each for each in await world.runs.rows() if each.finished_at is None]
        raise AssertionError(f"{live}\n{world.workers.logs()}")
    by_id = {each.flow_run_id: each for each in await world.runs.rows()}
    return {name: by_id[str(each)] for name, each in runs.items()}


async def change_of(row: RunRow) -> RepositoryChangeDetails | None:
    try:
        return await operations.show(row.id)
    except NotFound:
        return None


async def check_outcomes(
    rows: dict[str, RunRow], changes: dict[str, RepositoryChangeDetails | None]
) -> None:
    """Check each run's outcome, and that its change has exactly its own files."""
    for name, row in rows.items():
        job, way = name.split("-")
        is_verified = "verify" in JOBS.get(job, {})
        expected = {"hang": "timed_out"}.get(way, "succeeded")
        if way == "break" and is_verified:
            expected = "failed"
        assert row.status == expected, (name, row.reason, row.error)
        change = changes[name]
        if way == "nothing":
            assert change is None
            continue
        assert change is not None, name
        if way == "hang":
            assert change.status == ChangeStatus.WORKING
            continue
        assert {each.path for each in change.files} == files_of(name, way), name
        assert change.status == await expected_status(job, way, change), (name, change.problem)


async def expected_status(job: str, way: str, change: RepositoryChangeDetails) -> ChangeStatus:
    if job == "propose":
        return ChangeStatus.PROPOSED
    if job == "review" or (way == "break" and "verify" in JOBS[job]):
        return ChangeStatus.WAITING
    if JOBS[job]["land"] == "branch":
        return ChangeStatus.BRANCHED
    if way == "conflict" and change.has_conflict:
        return ChangeStatus.WAITING
    return ChangeStatus.LANDED


def check_proposals(
    changes: dict[str, RepositoryChangeDetails | None], forge: ForgeServer, bare: Path
) -> None:
    proposed = [each for name, each in changes.items() if each and name.startswith("propose")]
    assert sorted(each.branch for each in proposed) == sorted(
        each["branch"] for each in forge.requests
    )
    assert len({each.address for each in proposed}) == len(proposed) == len(PROPOSED)
    for each in proposed:
        assert at(bare, "rev-parse", each.branch) == each.head
    assert not at(bare, "fsck", "--full", "--no-dangling")


def check_branches(
    changes: dict[str, RepositoryChangeDetails | None], repository: UserRepository
) -> None:
    """Check that main has each landed change once, and each branch its own change."""
    base, landed = repository.files("mine") - {"mine.txt"}, dict[str, str]()
    expected = set(base)
    for name, change in changes.items():
        if change is None or change.status == ChangeStatus.WORKING:
            continue
        way = name.split("-")[1]
        if change.status == ChangeStatus.LANDED:
            landed[name] = change.landed
            expected = (
                expected - files_of(name, way)
                if way == "delete"
                else (expected | files_of(name, way))
            )
        if change.status == ChangeStatus.BRANCHED:
            assert at(repository.folder, "rev-parse", change.branch) == change.head
    assert repository.files("main") == expected
    subjects = at(repository.folder, "log", "--format=%s%n%b", "main")
    conflicts = [each for each in landed if each.endswith("-conflict")]
    assert conflicts  # the second one has met it, or began with it
    assert len(landed) == 2 * (len(WAYS) - 4) + len(conflicts)
    for name, commit_ in landed.items():
        change = changes[name]
        assert change is not None
        is_in = at(repository.folder, "branch", "--list", "main", "--contains", commit_)
        assert is_in, name
        if name.endswith("-commit"):
            assert subjects.count(f"work of {name}\n") == 1
        elif not name.endswith("-both"):
            assert subjects.count(f"Daybook-Run: {change.run_id}") == 1, name


async def check_reviews(
    changes: dict[str, RepositoryChangeDetails | None], repository: UserRepository
) -> None:
    """Let two people land all waiting changes of the job `review` at once."""
    waiting = [each for name, each in changes.items() if each and name.startswith("review")]
    waiting = [each for each in waiting if each.status == ChangeStatus.WAITING]
    before = len(at(repository.folder, "rev-list", "main").splitlines())
    twice = [operations.land(each.run_id) for _ in range(2) for each in waiting]
    done = await asyncio.gather(*twice)
    has_landed = {each.run_id: each for each in done if each.status == ChangeStatus.LANDED}
    refused = {each.run_id: each for each in done if each.status != ChangeStatus.LANDED}
    assert len(has_landed) + len(refused) == len(waiting)
    assert [each.changed_files for each in refused.values() if each.has_conflict] in ([], [1])
    files = repository.files("main")
    for each in waiting:
        if each.run_id in has_landed:
            shown = {file.path for file in each.files if file.insertions}
            assert shown <= files
    commits = at(repository.folder, "rev-list", "main").splitlines()
    assert len(commits) - before == len(has_landed) + 1  # one has two commits
