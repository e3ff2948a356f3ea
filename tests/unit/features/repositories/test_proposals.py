"""Changes that become pull requests: a git server over HTTPS, with the API of each kind of forge.

A kill is an exception that no code of Daybook catches.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from daybook.errors import AgentTemporary
from daybook.features.repositories import keeping, landing, operations, pull_requests
from daybook.features.repositories.forges import GITHUB, GITLAB, KINDS, ForgeFailed
from daybook.features.repositories.tables import ChangeStatus
from daybook.http.secrets import Secret
from daybook.ledger.states import Status
from daybook.runs.claim_requests import Granted
from tests.git_servers import GitServer
from tests.unit.features.attempts import Started
from tests.unit.features.repositories.coding import Agent, writes
from tests.unit.features.repositories.forge_servers import ApiOf, ForgeServer
from tests.unit.features.repositories.projects import SECRET, at, commit
from tests.world import World

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("daybook_home", "secrets")]


class Killed(BaseException):
    """What stands for the end of the process."""


class Project:
    """A repository at a forge, whose runs propose their changes."""

    def __init__(self, kind: str, server: GitServer, world: World, running: Started) -> None:
        if kind == GITLAB:
            (server.root / "team" / "web").mkdir()
            at(server.root, "clone", "-q", "--bare", "team/shop.git", "team/web/shop.git")
        self.forge = ForgeServer(kind, ApiOf(server))
        self.repository = server.root / f"{self.forge.path}.git"
        self.address = f"{server.address}/{self.forge.path}.git"
        self.kind, self.world, self._running = kind, world, running

    async def run(self, job: str = "fix", **fields: Any) -> Granted:
        """Return a run that has begun."""
        given = {"repo": self.address, "repo_secret": SECRET, "land": "pull-request"}
        return await self._running(job, forge=self.kind, **given, **fields)

    async def change(self, granted: Granted, **files: str) -> str:
        """Let the agent of a run write ``files``; return the run's reason."""
        outcome = await Agent(self.world, [writes(**files)])(granted)
        assert outcome.status == Status.SUCCEEDED
        await self.world.runs.finish(granted, Status.SUCCEEDED)
        return outcome.reason

    def branches(self) -> dict[str, str]:
        """Return the subject of the last commit of each branch of Daybook."""
        listed = at(self.repository, "for-each-ref", "--format=%(refname:short)|%(subject)")
        pairs = (each.split("|", 1) for each in listed.splitlines())
        return {name: subject for name, subject in pairs if name.startswith("daybook/")}


@pytest.fixture(params=KINDS)
def project(
    request: pytest.FixtureRequest, server: GitServer, world: World, running: Started
) -> Project:
    return Project(request.param, server, world, running)


@pytest.fixture
def github(server: GitServer, world: World, running: Started) -> Project:
    return Project(GITHUB, server, world, running)


async def test_each_change_has_a_branch_and_a_pull_request(project: Project) -> None:
    granted = await project.run()
    reason = await project.change(granted, a="better\n")
    [proposed] = project.forge.requests
    branch = f"daybook/fix/{granted.run_id[:12]}"
    assert (proposed["branch"], proposed["onto"], proposed["title"]) == (branch, "main", "Done 1.")
    assert proposed["body"] == f"Daybook-Run: {granted.run_id}"
    shown = await operations.show(granted.run_id)
    assert shown.status == ChangeStatus.PROPOSED
    assert shown.address.startswith(project.address.removesuffix(".git"))
    assert reason == f"1 file changed (+1 −1); proposed: {shown.address}"
    assert project.branches() == {branch: "fix: Done 1."}
    await project.change(await project.run(), a="best\n")
    assert [each["number"] for each in project.forge.requests] == [1, 2]


async def test_one_pull_request_gets_the_changes_of_all_runs(github: Project) -> None:
    for text in ("first", "two"):
        granted = await github.run(one_pull_request=True)
        await github.change(granted, a=f"{text}\n")
    [proposed] = github.forge.requests
    assert proposed["branch"] == "daybook/fix/pull-request"
    assert proposed["body"] == f"Daybook-Run: {granted.run_id}"
    assert at(github.repository, "show", "daybook/fix/pull-request:a.txt") == "two"
    assert at(github.repository, "log", "--format=%s", "main") == "change a"


@pytest.mark.slow
async def test_runs_at_once_and_a_failed_creation_share_the_branch(
    github: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {"one_pull_request": True, "overlap": "allow", "session": "new"}
    early, late = [await github.run(**given) for _ in range(2)]

    def begin(_: Path) -> None:
        raise AgentTemporary("busy")

    with pytest.raises(AgentTemporary):
        await Agent(github.world, [begin])(early)
    github.world.passes(minutes=1)
    propose = pull_requests.propose

    async def refuse(*given: Any, **named: Any) -> Any:
        raise ForgeFailed("it may not")

    monkeypatch.setattr(pull_requests, "propose", refuse)
    assert (await github.change(late, a="late\n")).endswith("not landed: it may not")
    monkeypatch.setattr(pull_requests, "propose", propose)
    reason = await github.change(await github.run(**given), a="latest\n")
    assert "proposed: " in reason
    assert "has the change of a later run" in await github.change(early, a="early\n")
    assert at(github.repository, "show", "daybook/fix/pull-request:a.txt") == "latest"
    assert len(github.forge.requests) == 1


async def test_a_commit_of_somebody_else_is_not_overwritten(
    github: Project, tmp_path: Path
) -> None:
    await github.change(await github.run(one_pull_request=True), a="first\n")
    branch = "daybook/fix/pull-request"
    at(tmp_path, "clone", "-q", "-b", branch, str(github.repository), "person")
    commit(tmp_path / "person", b="of a person\n")
    at(tmp_path / "person", "push", "-q")
    granted = await github.run(one_pull_request=True)
    reason = await github.change(granted, a="two\n")
    assert "which is not of Daybook; merge or delete the branch" in reason
    assert at(github.repository, "show", f"{branch}:b.txt") == "of a person"
    # The person has merged it. Then the waiting change gets its pull request.
    at(github.repository, "branch", "-D", branch)
    github.forge.requests[0]["state"] = "closed"
    assert (await operations.land(granted.run_id)).status == ChangeStatus.PROPOSED
    assert at(github.repository, "show", f"{branch}:a.txt") == "two"


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["before push", "before create", "after create"])
async def test_a_kill_leaves_one_pull_request(
    github: Project, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    when, _, what = moment.partition(" ")
    module, name = (landing, "push_branch") if what == "push" else (pull_requests, "propose")
    work = getattr(module, name)

    async def killed(*given: Any, **named: Any) -> None:
        if when == "after":
            await work(*given, **named)
        raise Killed

    granted = await github.run()
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(module, name, killed)
        await github.change(granted, a="better\n")
    assert (await operations.show(granted.run_id)).status == ChangeStatus.LANDING
    await keeping.tend(github.world.ledger)
    assert (await operations.show(granted.run_id)).status == ChangeStatus.PROPOSED
    assert len(github.forge.requests) == len(github.branches()) == 1


@pytest.mark.slow
async def test_the_keeper_tries_again_while_the_forge_does_not_answer(github: Project) -> None:
    forge, granted = github.forge, await github.run()
    server = forge.receiver
    assert isinstance(server, ApiOf)
    works, server.git.api = server.git.api, lambda *_: (502, b"", {})
    reason = await github.change(granted, a="better\n")
    assert "it is landing, and not yet there: 127.0.0.1 answered 502" in reason
    github.world.passes(minutes=30)
    await keeping.tend(github.world.ledger)
    assert (await operations.show(granted.run_id)).status == ChangeStatus.LANDING
    server.git.api = works
    await keeping.tend(github.world.ledger)
    assert (await operations.show(granted.run_id)).status == ChangeStatus.PROPOSED


@pytest.mark.slow
async def test_a_forge_that_stays_away_leaves_the_change_to_a_person(github: Project) -> None:
    server = github.forge.receiver
    assert isinstance(server, ApiOf)
    server.git.api = lambda *_: (502, b"", {})
    granted = await github.run()
    await github.change(granted, a="better\n")
    github.world.passes(hours=2)
    await keeping.tend(github.world.ledger)
    shown = await operations.show(granted.run_id)
    assert shown.status == ChangeStatus.WAITING
    assert "answered 502" in shown.problem


async def test_a_token_without_the_right_is_named(
    github: Project, secrets: dict[str, Secret]
) -> None:
    granted = await github.run()

    def lose(folder: Path) -> None:
        (folder / "a.txt").write_text("better\n")
        secrets[SECRET] = Secret(SECRET, "an0ther-token", ("127.0.0.1",))

    outcome = await Agent(github.world, [lose])(granted)
    assert f"does not accept the token in the secret {SECRET}; replace it" in outcome.reason
    assert github.branches() == {}
