"""A run in a repository: its worktree, its change, the verification, and what becomes of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from daybook.clock import SYSTEM_CLOCK
from daybook.errors import AgentFailed, AgentTemporary, FenceRefused, InvalidInput, NotFound
from daybook.execution import journal, sandboxing, workspaces
from daybook.execution.workspaces import WorkQuestion
from daybook.features.repositories import job_programs, keeping, operations, worktrees
from daybook.features.repositories.tables import ChangeRow, ChangeStatus
from daybook.features.repositories.workspace import RunWorkspace
from daybook.ledger.states import Outcome, Status
from daybook.ledger.tables import RunRow
from daybook.policies.policy import Policy
from daybook.runs.claim_requests import Granted
from tests.unit.features.attempts import Started
from tests.unit.features.repositories.coding import Agent, nothing, writes
from tests.unit.features.repositories.projects import at, commit
from tests.world import World

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("daybook_home")]


async def continued(world: World, running: Started, granted: Granted) -> Granted:
    """End the run; return one of its job that a person has asked to continue its change."""
    await world.runs.finish(granted, Status.SUCCEEDED)
    again = await running()
    async with world.ledger.write() as session:
        row = await session.get_one(ChangeRow, granted.run_id)
        row.continued_by = again.occurrence
    return again


async def test_a_change_waits_for_a_person_and_lands_once(
    world: World, running: Started, project: Path
) -> None:
    granted = await running("Nightly fix", repo=str(project), ref="main")
    agent = Agent(world, [writes(a="better\n", c="three\n")])
    outcome = await agent(granted)

    assert outcome.status == Status.SUCCEEDED
    assert outcome.reason == "2 files changed (+2 −1); it waits for a person"
    (waiting,) = await operations.list_changes(waiting=True)
    assert waiting.branch == f"daybook/nightly-fix/{granted.run_id[:12]}"
    assert (waiting.onto, waiting.agent, waiting.status) == ("main", "coder", "waiting")
    shown = await operations.show(granted.run_id)
    assert [(each.path, each.insertions, each.deletions) for each in shown.files] == [
        ("a.txt", 1, 1),
        ("c.txt", 1, 0),
    ]
    assert "+better" in shown.patch
    assert at(project, "log", "--format=%s", "main").splitlines() == ["change a b"]

    landed = await operations.land("Nightly fix")
    assert landed.state_in_words() == f"landed on main as {landed.landed[:12]}"
    assert (await operations.land(granted.run_id)).landed == landed.landed
    assert at(project, "rev-parse", "main") == landed.landed
    assert at(project, "log", "--format=%an: %s", "main").splitlines() == [
        "coder: Nightly fix: Done 1.",
        "ana: change a b",
    ]
    assert at(project, "status", "--porcelain") == ""
    with pytest.raises(InvalidInput, match="it is landed"):
        await operations.discard(granted.run_id)


async def test_a_run_without_a_change_says_so_and_is_not_in_the_queue(
    world: World, running: Started, project: Path
) -> None:
    granted = await running(repo=str(project))
    outcome = await Agent(world, [nothing])(granted)
    assert (outcome.status, outcome.reason) == (Status.SUCCEEDED, "no change")
    assert await operations.list_changes() == []
    with pytest.raises(NotFound):
        await operations.show(granted.run_id)


async def test_a_failed_verification_is_repaired_with_its_output(
    world: World, running: Started, project: Path
) -> None:
    check = ("sh", "-c", "echo found $(cat a.txt); echo left > report.log; grep -q right a.txt")
    granted = await running(repo=str(project), ref="main", verify=check, land="auto")
    agent = Agent(world, [writes(a="wrong\n"), writes(a="right\n")])
    outcome = await agent(granted)

    assert outcome.status == Status.SUCCEEDED
    assert outcome.usage is not None
    assert outcome.usage["input_tokens"] == 20
    first, second = agent.questions
    assert (first.number, second.number, first.addition) == (0, 1, "")
    assert "exited with code 1" in second.addition
    assert "    found wrong" in second.addition
    assert "    Done 1." in second.addition
    landed = at(project, "rev-parse", "main")
    assert outcome.reason == f"1 file changed (+1 −1); landed on main as {landed[:12]}"
    assert at(project, "ls-tree", "--name-only", "main").split() == ["a.txt", "b.txt"]
    assert (await operations.show(granted.run_id)).is_verified


async def test_a_change_that_stays_wrong_fails_the_run_and_waits(
    world: World, running: Started, project: Path
) -> None:
    check = ("sh", "-c", "echo broken; exit 3")
    granted = await running(repo=str(project), ref="main", verify=check, repairs=1)
    outcome = await Agent(world, [writes(a="x\n"), nothing])(granted)
    assert outcome.status == Status.FAILED
    assert outcome.output == "Done 2."
    assert outcome.error is not None
    assert outcome.error.endswith("exited with code 3; its output ends: broken")
    shown = await operations.show(granted.run_id)
    assert (shown.status, shown.is_verified, shown.verification) == ("waiting", False, "broken")
    refused = await operations.land(granted.run_id)
    assert refused.status == ChangeStatus.WAITING
    assert "verify, with the newest commits" in refused.problem
    assert at(project, "log", "--format=%s", "main") == "change a b"


async def test_a_verification_that_cannot_be_started_is_no_question_to_the_agent(
    world: World, running: Started, project: Path
) -> None:
    granted = await running(repo=str(project), ref="main", verify=("no-such-program",))
    agent = Agent(world, [writes(a="x\n")])
    outcome = await agent(granted)
    assert outcome.status == Status.FAILED
    assert "no-such-program cannot be started" in (outcome.error or "")
    assert len(agent.questions) == 1


async def test_a_branch_that_has_moved_is_verified_again(
    world: World, running: Started, project: Path
) -> None:
    check = ("sh", "-c", "! grep -q two b.txt || ! grep -q better a.txt")
    granted = await running(repo=str(project), ref="main", verify=check)
    at(project, "branch", "-f", "before", "main")
    await Agent(world, [writes(a="better\n", b="2\n")])(granted)
    at(project, "switch", "-q", "main")
    commit(project, c="three\n")
    at(project, "switch", "-q", "mine")
    landed = await operations.land(granted.run_id)
    assert landed.status == ChangeStatus.LANDED
    assert at(project, "log", "--format=%s", "main").splitlines()[1:] == ["change c", "change a b"]


async def test_a_conflict_goes_back_to_the_agent(
    world: World, running: Started, project: Path
) -> None:
    granted = await running(repo=str(project), ref="main")
    await Agent(world, [writes(a="mine\n")])(granted)
    at(project, "switch", "-q", "main")
    commit(project, a="theirs\n")
    at(project, "switch", "-q", "mine")
    refused = await operations.land(granted.run_id)
    assert refused.problem == "main has changed the same lines of a.txt"
    assert refused.has_conflict

    again = await continued(world, running, granted)
    agent = Agent(world, [writes(a="theirs and mine\n")])
    await agent(again)
    (question,) = agent.questions
    assert "has the newest commit of main" in question.addition
    diff = question.addition.partition("`git ")[2].partition("`")[0].split()
    assert "+mine" in at(worktrees.folder_of(again.run_id) / "work", *diff)
    assert (await operations.show(granted.run_id)).status == ChangeStatus.REPLACED
    assert (await operations.land(again.run_id)).status == ChangeStatus.LANDED
    assert at(project, "show", "main:a.txt") == "theirs and mine"


async def test_a_run_that_continues_a_change_has_its_files(
    world: World, running: Started, project: Path
) -> None:
    granted = await running(repo=str(project), ref="main")
    await Agent(world, [writes(a="better\n")])(granted)
    again = await continued(world, running, granted)

    def work(folder: Path) -> None:
        assert (folder / "a.txt").read_text() == "better\n"
        (folder / "c.txt").write_text("three\n")

    agent = Agent(world, [work])
    await agent(again)
    assert "has the change that you have made" in agent.questions[0].addition
    shown = await operations.show(again.run_id)
    assert [each.path for each in shown.files] == ["a.txt", "c.txt"]
    assert [each.run_id for each in await operations.list_changes(waiting=True)] == [again.run_id]


async def test_a_discarded_change_does_not_land_and_the_next_run_knows(
    world: World, running: Started, project: Path
) -> None:
    granted = await running(repo=str(project), ref="main")
    await Agent(world, [writes(a="worse\n")])(granted)
    discarded = await operations.discard(granted.run_id, "Keep a.txt as it is.")
    assert (discarded.status, discarded.note) == ("discarded", "Keep a.txt as it is.")
    with pytest.raises(InvalidInput, match="it is discarded"):
        await operations.land(granted.run_id)
    await world.runs.finish(granted, Status.SUCCEEDED)
    again = await running(repo=str(project), ref="main")
    agent = Agent(world, [nothing])
    await agent(again)
    assert agent.questions[0].addition == (
        "A person has discarded the change of your run before this one: Keep a.txt as it is."
    )


async def test_a_run_knows_which_changes_of_its_job_wait(
    world: World, running: Started, project: Path
) -> None:
    granted = await running(repo=str(project), ref="main")
    await Agent(world, [writes(a="better\n")])(granted)
    await world.runs.finish(granted, Status.SUCCEEDED)
    agent = Agent(world, [nothing])
    await agent(await running())
    assert agent.questions[0].addition.endswith("do not make them again:\n- Done 1.")
    assert (worktrees.folder_of(granted.run_id) / "work" / "a.txt").read_text() == "better\n"


async def test_a_large_change_of_land_auto_waits(
    world: World, running: Started, project: Path
) -> None:
    granted = await running(
        repo=str(project), ref="main", verify=("true",), land="auto", max_changed_files=1
    )
    outcome = await Agent(world, [writes(a="1\n", b="2\n")])(granted)
    assert outcome.reason.endswith("it waits for a person: 2 is more than max_changed_files 1")
    assert (await operations.show(granted.run_id)).status == ChangeStatus.WAITING


async def test_land_branch_adds_the_run_s_branch(
    world: World, running: Started, project: Path
) -> None:
    granted = await running(repo=str(project), land="branch")
    outcome = await Agent(world, [writes(a="better\n")])(granted)
    branch = f"daybook/brief/{granted.run_id[:12]}"
    assert outcome.reason == f"1 file changed (+1 −1); on the branch {branch}"
    assert at(project, "show", f"{branch}:a.txt") == "better"
    assert at(project, "show", "mine:a.txt") == "one"


async def test_a_checked_out_branch_is_left_alone_and_its_merge_is_noticed(
    world: World, running: Started, project: Path
) -> None:
    granted = await running(repo=str(project), ref="mine")
    await Agent(world, [writes(a="better\n")])(granted)
    refused = await operations.land(granted.run_id)
    assert refused.status == ChangeStatus.WAITING
    assert at(project, "status", "--porcelain") == ""
    command = refused.problem.partition("run `git ")[2].partition("`")[0].split()
    at(project, *command)
    assert (project / "a.txt").read_text() == "better\n"
    await keeping.tend(world.ledger)
    assert (await operations.show(granted.run_id)).status == ChangeStatus.LANDED


async def test_a_retry_goes_on_in_the_same_files_and_setup_runs_once(
    world: World, running: Started, project: Path
) -> None:
    setup = ("sh", "-c", "echo done >> setup.log")
    granted = await running(repo=str(project), setup=setup)

    def fails(folder: Path) -> None:
        (folder / "half.txt").write_text("half\n")
        raise AgentTemporary("busy")

    def goes_on(folder: Path) -> None:
        assert (folder / "half.txt").read_text() == "half\n"

    agent = Agent(world, [fails, goes_on])
    with pytest.raises(AgentTemporary):
        await agent(granted)
    await agent(granted)
    shown = await operations.show(granted.run_id)
    assert [(each.path, each.insertions) for each in shown.files] == [
        ("half.txt", 1),
        ("setup.log", 1),
    ]


async def test_a_recorded_change_is_not_made_again(
    world: World, running: Started, project: Path
) -> None:
    granted = await running(repo=str(project), ref="main", verify=("true",), land="auto")
    agent = Agent(world, [writes(a="better\n")])
    await agent(granted)
    again = await agent(granted, attempt=2)  # the process was killed before the outcome
    assert len(agent.questions) == 1
    assert "has recorded the change" in again.reason
    assert len(at(project, "log", "--format=%s", "main").splitlines()) == 2


async def test_the_last_verification_of_an_earlier_attempt_counts_only_for_its_commit(
    world: World, running: Started, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = ("grep", "-q", "right", "a.txt")
    granted = await running(repo=str(project), ref="main", verify=check, repairs=0)
    agent = Agent(world, [writes(a="wrong\n"), writes(a="right\n")])

    async def kill(*_: object) -> Outcome:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(RunWorkspace, "_recorded", kill)
        await agent(granted)
    outcome = await agent(granted, attempt=2)  # a program, which is asked again
    assert (outcome.status, outcome.error) == (Status.SUCCEEDED, None)


async def test_a_process_without_its_claim_records_no_change(
    world: World, running: Started, project: Path
) -> None:
    granted = await running(repo=str(project))

    workspace = workspaces.of(granted)
    assert workspace is not None

    async def ask(_: WorkQuestion) -> Outcome:
        (Path(workspace.folder) / "a.txt").write_text("late\n")
        async with world.ledger.write() as session:
            row = await session.get_one(RunRow, granted.run_id)
            row.fence += 1
        return Outcome(Status.SUCCEEDED, output="Done.")

    with (
        journal.recording(world.ledger, granted, 1, SYSTEM_CLOCK),
        pytest.raises(FenceRefused),
    ):
        await workspace.work(ask)
    assert [each.status for each in await operations.list_worktrees()] == ["working"]


async def test_a_worktree_of_another_machine_is_not_replaced(
    world: World, running: Started, project: Path
) -> None:
    granted = await running(repo=str(project))

    def fails(_: Path) -> None:
        raise AgentTemporary("busy")

    agent = Agent(world, [fails])
    with pytest.raises(AgentTemporary):
        await agent(granted)
    worktrees.remove_folder(worktrees.folder_of(granted.run_id))
    with pytest.raises(AgentFailed, match="worktree is not here"):
        await agent(granted)


async def test_the_keeper_goes_on_with_a_landing(
    world: World, running: Started, project: Path
) -> None:
    granted = await running(repo=str(project), ref="main")
    await Agent(world, [writes(a="better\n")])(granted)
    assert (await operations.land(granted.run_id, wait=False)).status == ChangeStatus.LANDING
    await keeping.tend(world.ledger)
    assert at(project, "show", "main:a.txt") == "better"
    assert (await operations.show(granted.run_id)).status == ChangeStatus.LANDED


async def test_caches_are_removed_with_their_job(world: World, running: Started) -> None:
    granted = await running("kept")
    assert granted.job is not None
    of_job = sandboxing.cache_folder(granted.job.id, "off")
    of_none, of_removed = (sandboxing.cache_folder(each, "off") for each in ("", "0" * 32))
    for each in (of_job, of_none, of_removed):
        each.mkdir(parents=True)
    await keeping.tend(world.ledger)
    assert [each.exists() for each in (of_job, of_none, of_removed)] == [True, True, False]


async def test_worktrees_are_removed_when_they_are_not_needed(
    world: World, running: Started, project: Path
) -> None:
    kept, over = await running("kept", repo=str(project)), await running("over", repo=str(project))
    for granted, work in ((kept, writes(a="x\n")), (over, nothing)):
        await Agent(world, [work])(granted)
    folders = [worktrees.folder_of(each.run_id) for each in (kept, over)]
    await keeping.tend(world.ledger)
    assert [each.exists() for each in folders] == [True, True]  # the runs have not ended
    for granted in (kept, over):
        await world.runs.finish(granted, Status.SUCCEEDED)
    await keeping.tend(world.ledger)
    assert [each.exists() for each in folders] == [True, False]
    listed = await operations.list_worktrees()
    assert [(each.job, each.path) for each in listed] == [("kept", str(folders[0] / "work"))]
    assert listed[0].bytes > 0
    world.passes(days=15)
    await keeping.tend(world.ledger)
    assert not folders[0].exists()
    assert (await operations.land(kept.run_id)).status == ChangeStatus.WAITING  # mine is in use


async def test_no_program_without_a_sandbox_uses_the_cache_of_one_with_it(tmp_path: Path) -> None:
    command = ("sh", "-c", "ls $XDG_CACHE_HOME; touch $XDG_CACHE_HOME/wheel")
    sandbox = sandboxing.build(Policy(sandbox="workspace"), "user", "job")
    assert sandbox is not None
    work = tmp_path / "work"
    work.mkdir()
    found = [
        (await job_programs.run(command, work, "job", 60.0, each)).output
        for each in (sandbox, sandbox, None)
    ]
    assert found == ["", "wheel", ""]


async def test_in_a_sandbox_a_program_of_the_path_is_one_that_it_shows(
    world: World,
    running: Started,
    project: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hidden = tmp_path / "bin"
    hidden.mkdir()
    (hidden / "grep").write_text("#!/bin/sh\nexit 3\n")
    (hidden / "grep").chmod(0o755)
    monkeypatch.setenv("PATH", f"{hidden}:{os.environ['PATH']}")
    granted = await running(
        repo=str(project), ref="main", verify=("grep", "better", "a.txt"), sandbox="workspace"
    )
    outcome = await Agent(world, [writes(a="better\n")])(granted)
    assert outcome.status == Status.SUCCEEDED
    assert (await operations.show(granted.run_id)).verification == "better"
