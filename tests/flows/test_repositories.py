"""Runs of agents in worktrees of a repository, at a real Prefect."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import pytest

from daybook.agents import documents
from daybook.features.repositories import operations
from daybook.policies.policy import Policy
from daybook.resources import secrets
from flows.agent_prompt import agent_prompt
from tests import certificates
from tests.at_prefect import add_document
from tests.calling import ModelAgent, calls
from tests.git_servers import serving_git
from tests.providers import Answer, Status
from tests.unit.features.repositories.projects import at, commit, user_repository
from tests.world.prefect_world import PrefectWorld
from tests.world.workers import PREFECT_LEAVES_A_SOCKET

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, *PREFECT_LEAVES_A_SOCKET]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = user_repository(tmp_path / "project", a="one\n")
    (folder / "AGENTS.md").write_text("Use spaces.")
    commit(folder)
    at(folder, "branch", "-qf", "main", "mine")
    return folder


async def test_a_model_changes_files_and_a_retry_goes_on_with_them(
    model_agent: ModelAgent, project: Path
) -> None:
    await model_agent.given("files")
    verify = ["grep", "-q", "good", "a.txt"]
    policy = {"repo": str(project), "ref": "main", "land": "auto", "verify": verify}

    result = await model_agent.run(
        calls("files_write", path="a.txt", content="bad\n"),
        Status(503, "Busy."),
        Answer("It is good."),
        calls("files_write", path="a.txt", content="good\n"),
        Answer("Now it is."),
        policy=policy,
    )

    assert (result["status"], result["output"]) == ("succeeded", "Now it is.")
    assert "landed on main" in result["reason"]
    assert at(project, "show", "main:a.txt") == "good"
    asked = model_agent.fake_provider.requests
    assert len(asked) == 5
    assert ("system", asked[0].messages[0][1]) == asked[3].messages[0]
    assert "Use spaces." in asked[0].messages[0][1]
    assert "grep -q good a.txt exited with code 1" in asked[3].prompt


async def test_a_program_works_in_a_worktree_and_commits_there(
    world: PrefectWorld, project: Path
) -> None:
    agent = await world.agents.add("")
    script = "echo better > a.txt && git commit -qam 'Improve a' && echo more > b.txt && echo Done."
    settings = {"command": ["sh", "-c", script]}
    await documents.add(world.client, agent.name, "command", settings, replace=True)
    policy = Policy(repo=str(project), ref="main")

    result: Any = await agent_prompt(prompt="Go", agent=agent.name, policy=policy)

    assert result["output"] == "Done."
    assert result["reason"] == "2 files changed (+2 −1); it waits for a person"
    await operations.land(result["run_id"])
    subjects = at(project, "log", "--format=%an: %s", "main").splitlines()
    assert subjects[:2] == [f"{agent.name}: agent-prompt: Done.", f"{agent.name}: Improve a"]


async def test_a_program_in_a_sandbox_works_only_in_its_worktree(
    world: PrefectWorld, project: Path, tmp_path: Path
) -> None:
    agent = await world.agents.add("")
    outside, home = tmp_path / "outside.txt", os.environ["HOME"]
    script = (
        f"echo better > a.txt && git commit -qam 'Improve a'; echo x > {outside}; "
        f"ls {world.home.path}; ls -A {home}; cat < /dev/tcp/127.0.0.1/5432; echo Done."
    )
    settings = {"command": ["bash", "-c", script]}
    await documents.add(world.client, agent.name, "command", settings, replace=True)
    verify = ("sh", "-c", "grep better a.txt && ! ls ../index")
    policy = Policy(repo=str(project), ref="main", sandbox="workspace", verify=verify, land="auto")

    result: Any = await agent_prompt(prompt="Go", agent=agent.name, policy=policy)

    assert result["status"] == "succeeded", result
    assert result["output"].splitlines()[-1] == "Done."
    assert "ledger" not in result["output"]
    assert not outside.exists()
    assert at(project, "log", "-1", "--format=%s", "main") == "Improve a"


def texts_in(folder: Path) -> dict[str, str]:
    """Return the content of each file, by its path."""
    return {str(each): each.read_text("latin-1") for each in folder.rglob("*") if each.is_file()}


async def test_a_token_is_nowhere_but_in_git(
    world: PrefectWorld,
    project: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    certificate, token = certificates.localhost(tmp_path), "t0ken-of-the-forge"
    (tmp_path / "server").mkdir()
    at(tmp_path / "server", "clone", "-q", "--bare", "-b", "main", str(project), "shop.git")
    for name in ("GIT_SSL_CAINFO", "GIT_SSL_CAPATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", os.devnull)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    agent = await world.agents.add("")
    script = f"cat /proc/$$/environ > '{tmp_path}/environment'; echo better > a.txt; echo Done."
    settings = {"command": ["sh", "-c", script]}
    await documents.add(world.client, agent.name, "command", settings, replace=True)
    secret = {"value": token, "hosts": ["127.0.0.1"]}
    with serving_git(tmp_path / "server", certificate) as server:
        server.tokens = {token}
        await add_document(secrets.STORE, world.client, "forge", secret)
        try:
            policy = Policy(
                repo=f"{server.address}/shop.git",
                repo_secret="forge",
                verify=("grep", "-q", "better", "a.txt"),
                land="auto",
            )
            result: Any = await agent_prompt(prompt="Go", agent=agent.name, policy=policy)
        finally:
            await secrets.STORE.remove(world.client, "forge")

    assert "landed on main" in result["reason"]
    assert at(tmp_path / "server" / "shop.git", "show", "main:a.txt") == "better"
    authorization = server.seen[-1][1].removeprefix("Basic ")
    (row,) = await world.runs.rows()
    texts = {
        "log": caplog.text + str(await world.prefect.log(row.flow_run_id)),
        "environment": (tmp_path / "environment").read_text(),
    }
    texts |= texts_in(world.home.path)
    assert any(each.endswith("/work/.git/config") for each in texts)
    assert str(world.home.path / "ledger.db") in texts
    for name, text in texts.items():
        assert token not in text, name
        assert authorization not in text, name
