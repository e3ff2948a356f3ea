"""Worktrees of a repository: each run has its own, and its change is collected once."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from daybook.errors import InvalidInput
from daybook.features.repositories import git, store, worktrees
from daybook.features.repositories.git import GitFailed
from daybook.features.repositories.store import Store
from daybook.home import Home
from daybook.policies import repositories
from daybook.policies.repositories import Upstream
from tests.unit.features.repositories.projects import AUTHOR, at, commit, worktree

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("daybook_home")]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a user's repository with one commit, an edited file, a staged one and a stash."""
    folder = tmp_path / "project"
    folder.mkdir()
    at(folder, "init", "-q", "-b", "main")
    for name, text in {"a.txt": "one\n", "b.txt": "two\n", ".gitignore": "*.log\n"}.items():
        (folder / name).write_text(text)
    at(folder, "add", "-A")
    at(folder, "commit", "-qm", "first")
    (folder / "a.txt").write_text("stashed\n")
    at(folder, "stash", "-q")
    (folder / "a.txt").write_text("edited\n")
    (folder / "new.txt").write_text("staged\n")
    at(folder, "add", "new.txt")
    return folder


def bytes_of(folder: Path) -> dict[str, bytes]:
    files = (each for each in folder.rglob("*") if each.is_file())
    return {str(each.relative_to(folder)): each.read_bytes() for each in files}


async def test_an_agent_gets_the_last_commit_and_leaves_the_user_s_files_alone(
    project: Path,
) -> None:
    before = bytes_of(project)
    made = await worktree(project)
    assert (made.work / "a.txt").read_text() == "one\n"
    assert not (made.work / "new.txt").exists()
    assert at(made.work, "status", "--porcelain") == ""
    assert at(made.work, "rev-parse", "--abbrev-ref", "HEAD") == "daybook/nightly/run-1"
    assert at(made.work, "log", "--format=%s") == "first"

    (made.work / "a.txt").write_text("changed\n")
    at(made.work, "commit", "-qam", "by the agent")
    at(made.work, "stash", "list")
    await made.collect("the rest", AUTHOR)
    assert bytes_of(project) == before


async def test_the_agent_s_commits_and_the_rest_are_on_the_branch_of_the_run(
    project: Path,
) -> None:
    made = await worktree(project)
    (made.work / "a.txt").write_text("one\nmore\n")
    at(made.work, "commit", "-qam", "by the agent")
    (made.work / "b.txt").unlink()
    (made.work / "sub").mkdir()
    (made.work / "sub" / "ü x.bin").write_bytes(b"\0\1")
    (made.work / "left.log").write_text("ignored\n")

    change = await made.collect("the rest", AUTHOR)

    repository = made.store.repository
    shown = await git.run(
        "log", "--format=%s|%an", f"refs/heads/{made.branch}", repository=repository
    )
    assert shown.text.splitlines() == ["the rest|coder", "by the agent|ana", "first|ana"]
    assert {(each.path, each.insertions, each.deletions) for each in change.files} == {
        ("a.txt", 1, 0),
        ("b.txt", 0, 1),
        ("sub/ü x.bin", None, None),
    }
    assert (change.insertions, change.deletions) == (1, 1)
    assert "+more" in change.patch
    assert change.base != change.head
    assert change.notes == ()
    # After a kill, the change is collected once more.
    assert await made.collect("the rest", AUTHOR) == change


async def test_a_run_without_a_change_has_none(project: Path) -> None:
    made = await worktree(project)
    (made.work / "left.log").write_text("ignored\n")
    change = await made.collect("the rest", AUTHOR)
    assert (change.head, change.files, change.patch) == (change.base, (), "")
    with pytest.raises(GitFailed):
        await made.store.commit_of(f"refs/heads/{made.branch}")


async def test_a_further_attempt_goes_on_in_the_same_files(project: Path) -> None:
    made = await worktree(project)
    (made.work / "a.txt").write_text("half\n")
    half = worktrees.folder_of("run-2").with_name("run-2.new")
    half.mkdir(parents=True)  # as a process leaves it that was killed while it created the folder
    again = await worktree(project)
    assert (again.work / "a.txt").read_text() == "half\n"
    assert (await worktree(project, "run-2")).work.joinpath("a.txt").read_text() == "one\n"
    assert not half.exists()


@pytest.mark.slow
async def test_ten_runs_at_once_do_not_meet(project: Path) -> None:
    async def one(number: int) -> set[str]:
        made = await worktree(project, f"run-{number}")
        (made.work / f"{number}.txt").write_text("mine\n")
        await asyncio.to_thread(at, made.work, "add", "-A")
        await asyncio.to_thread(at, made.work, "commit", "-qm", f"run {number}")
        (made.work / "a.txt").write_text(f"{number}\n")
        return {each.path for each in (await made.collect("the rest", AUTHOR)).files}

    changed = await asyncio.gather(*map(one, range(10)))
    assert changed == [{f"{number}.txt", "a.txt"} for number in range(10)]
    fsck = await git.run(
        "fsck", "--strict", repository=Store(Upstream.parse(str(project))).repository
    )
    assert fsck.text == ""


def _configure(work: Path, *settings: str) -> None:
    for name, value in zip(settings[::2], settings[1::2], strict=True):
        at(work, "config", name, value)


def _hooks(folder: Path, program: str) -> None:
    folder.mkdir(exist_ok=True)
    for name in ("post-checkout", "pre-commit", "post-index-change", "reference-transaction"):
        (folder / name).symlink_to(program)


def _hooks_elsewhere(work: Path, program: str) -> None:
    _hooks(work / "hooks", program)
    _configure(work, "core.hooksPath", str(work / "hooks"))


def _driver(work: Path, kind: str, setting: str, program: str) -> None:
    _configure(work, f"{kind}.evil.{setting}", program, f"{kind}.evil.required", "true")
    (work / ".gitattributes").write_text(f"* {kind}=evil\n")


def _included(work: Path, program: str) -> None:
    (work / "settings").write_text(f"[core]\n\tfsmonitor = {program}\n")
    _configure(work, "include.path", str(work / "settings"))


def _inside(work: Path, program: str) -> None:
    inner = work / "inner"
    inner.mkdir()
    at(inner, "init", "-q")
    at(inner, "commit", "-q", "--allow-empty", "-m", "inner")
    _configure(inner, "core.fsmonitor", program)
    _hooks(inner / ".git" / "hooks", program)


def _bare(work: Path, program: str) -> None:
    at(work, "init", "-q", "--bare", "bare.git")
    at(work / "bare.git", "config", "core.fsmonitor", program)
    at(work / "bare.git", "config", "core.worktree", str(work))


def _setting(*settings: str) -> Callable[[Path, str], None]:
    """Return a function that configures ``settings``, in which PROGRAM stands for the program."""

    def plant(work: Path, program: str) -> None:
        _configure(work, *(each.replace("PROGRAM", program) for each in settings))

    return plant


def _named(kind: str, setting: str) -> Callable[[Path, str], None]:
    return lambda work, program: _driver(work, kind, setting, program)


PROGRAMS: dict[str, Callable[[Path, str], None]] = {
    "a hook": lambda work, program: _hooks(work / ".git" / "hooks", program),
    "hooks elsewhere": _hooks_elsewhere,
    "fsmonitor": _setting("core.fsmonitor", "PROGRAM"),
    "a pager": _setting("core.pager", "PROGRAM"),
    "an editor": _setting("core.editor", "PROGRAM"),
    "ssh": _setting("core.sshCommand", "PROGRAM"),
    "askpass": _setting("core.askPass", "PROGRAM"),
    "an external diff": _setting("diff.external", "PROGRAM"),
    "a filter": _named("filter", "clean"),
    "a filter process": _named("filter", "process"),
    "a text conversion": _named("diff", "textconv"),
    "a diff command": _named("diff", "command"),
    "a merge driver": _named("merge", "driver"),
    "a signature": _setting("gpg.program", "PROGRAM", "commit.gpgSign", "true"),
    "a packer": _setting("uploadpack.packObjectsHook", "PROGRAM"),
    "other refs": _setting("core.alternateRefsCommand", "PROGRAM"),
    "an included file": _included,
    "a partial clone": _setting(
        "remote.origin.url", "ext::PROGRAM", "extensions.partialClone", "origin"
    ),
    "a repository inside": _inside,
    "a bare repository": _bare,
}


@pytest.mark.slow
@pytest.mark.parametrize("trick", PROGRAMS)
async def test_no_program_that_the_agent_s_repository_names_runs(
    trick: str, project: Path, tmp_path: Path
) -> None:
    made = await worktree(project)
    ran, program = tmp_path / "ran", tmp_path / "program"
    program.write_text(f"#!/bin/sh\necho {trick} >> '{ran}'\n")
    program.chmod(0o755)
    (made.work / "a.txt").write_text("changed\n")
    PROGRAMS[trick](made.work, str(program))
    ran.unlink(missing_ok=True)  # the agent's own commands may run it

    change = await made.collect("the rest", AUTHOR)

    assert not ran.exists()
    assert "a.txt" in {each.path for each in change.files}
    assert "+changed" in change.patch
    if trick == "a repository inside":
        assert change.notes == ("inner is a repository of its own, and left out",)


def test_these_programs_run_if_git_reads_the_agent_s_repository(
    project: Path, tmp_path: Path
) -> None:
    ran, program = tmp_path / "ran", tmp_path / "program"
    program.write_text(f"#!/bin/sh\necho >> '{ran}'\n")
    program.chmod(0o755)
    harmless = set()
    for trick, plant in PROGRAMS.items():
        work = tmp_path / trick
        at(tmp_path, "clone", "-q", "-b", "main", str(project), str(work))
        (work / "a.txt").write_text("changed\n")
        plant(work, str(program))
        ran.unlink(missing_ok=True)
        for command in (["add", "-A"], ["diff", "HEAD"], ["commit", "-m", "x"], ["log", "-p"]):
            subprocess.run(
                ["git", "-c", "user.name=a", "-c", "user.email=a", *command],
                cwd=work,
                capture_output=True,
                check=False,
            )
        if not ran.exists():
            harmless.add(trick)
    # These need a terminal, a remote repository, a merge, or a command inside of them.
    elsewhere = {"a pager", "an editor", "ssh", "askpass", "a merge driver", "a packer"}
    elsewhere |= {"other refs", "a partial clone", "a repository inside", "a bare repository"}
    assert harmless <= elsewhere


async def test_the_files_count_even_if_the_agent_broke_its_repository(project: Path) -> None:
    made = await worktree(project)
    (made.work / "a.txt").write_text("changed\n")
    (made.work / ".git" / "HEAD").write_text("nonsense")
    os.mkfifo(made.work / "fifo")
    change = await made.collect("the rest", AUTHOR)
    assert [each.path for each in change.files] == ["a.txt"]
    (note,) = change.notes
    assert note.startswith("the agent's own commits cannot be read: git fetch: ")


@pytest.mark.parametrize("part", ["a repository without a commit", "a name of git", "a link"])
async def test_a_file_that_git_refuses_leaves_only_itself_out(part: str, project: Path) -> None:
    made = await worktree(project)
    if part == "a link":
        (made.work / ".gitmodules").symlink_to("a.txt")
    else:
        inner = made.work / (".GIT" if part == "a name of git" else "inner")
        inner.mkdir()
        (inner / "x").write_text("x")
        if inner.name == "inner":
            at(inner, "init", "-q")
    (made.work / "a.txt").write_text("changed\n")
    (made.work / "z.txt").write_text("new\n")
    change = await made.collect("the rest", AUTHOR)
    assert [each.path for each in change.files] == ["a.txt", "z.txt"]
    (note,) = change.notes
    assert note.startswith("some files are left out: git add: error: ")


async def test_a_list_of_files_is_complete_or_an_error(project: Path) -> None:
    made = await worktree(project)
    arguments = "ls-tree", "-z", "--name-only", made.base
    names = await git.run(*arguments, repository=made.store.repository)
    assert names.fields() == [".gitignore", "a.txt", "b.txt"]
    cut = await git.run(*arguments, repository=made.store.repository, most=12)
    with pytest.raises(GitFailed, match="list of files is longer than 12 bytes"):
        cut.fields()


async def test_names_of_files_are_printable(project: Path) -> None:
    made = await worktree(project)
    (made.work / "a\n\x1b.txt").write_text("x")
    inner = made.work / "b\nc"
    inner.mkdir()
    at(inner, "init", "-q")
    at(inner, "commit", "-q", "--allow-empty", "-m", "inner")
    change = await made.collect("the rest", AUTHOR)
    assert [each.path for each in change.files] == [r"a\n\x1b.txt"]
    assert change.notes == (r"b\nc is a repository of its own, and left out",)


async def test_a_link_is_committed_as_a_link(project: Path, tmp_path: Path) -> None:
    made = await worktree(project)
    (tmp_path / "secret").write_text("s3cret")
    (made.work / "link").symlink_to(tmp_path / "secret")
    (made.work / "folder").symlink_to(tmp_path)
    change = await made.collect("the rest", AUTHOR)
    assert {each.path for each in change.files} == {"link", "folder"}
    assert "s3cret" not in change.patch


async def test_a_patch_shows_what_an_attribute_hides(project: Path) -> None:
    made = await worktree(project)
    (made.work / ".gitattributes").write_text("* -diff\n")
    (made.work / "a.txt").write_text("hidden\n")
    assert "+hidden" in (await made.collect("the rest", AUTHOR)).patch


async def test_a_huge_file_is_not_compared_by_lines(project: Path) -> None:
    made = await worktree(project)
    (made.work / "huge.txt").write_bytes(b"x" * 2**20 * 33)
    change = await made.collect("the rest", AUTHOR)
    assert [(each.path, each.insertions) for each in change.files] == [("huge.txt", None)]
    assert "Binary files" in change.patch


async def test_a_missing_folder_or_program_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(GitFailed, match="missing"):
        await git.run("version", cwd=tmp_path / "missing")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(GitFailed, match="git is not installed"):
        await git.run("version")


async def test_a_folder_is_removed_with_what_nothing_may_read(project: Path) -> None:
    made = await worktree(project)
    outside = project / "a.txt"
    locked = made.work / "locked" / "inner"
    locked.mkdir(parents=True)
    (locked / "file").write_text("x")
    (locked / "link").symlink_to(outside)
    locked.chmod(0)
    locked.parent.chmod(0)
    worktrees.remove_folder(made.folder)
    assert not made.folder.exists()
    assert outside.read_text() == "edited\n"


async def test_a_folder_is_removed_that_is_nested_deeply(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await worktree(project)
    with monkeypatch.context() as patch:
        patch.chdir(made.work)
        for _ in range(3_000):  # longer than the longest path
            os.mkdir("folder")
            os.chdir("folder")
    assert (made.work / "folder").exists()
    worktrees.remove_folder(made.folder)
    assert not made.folder.exists()


async def test_what_a_killed_command_left_stops_no_later_one(project: Path) -> None:
    made = await worktree(project)
    repository = made.store.repository
    for name in ("HEAD.lock", "packed-refs.lock", "objects/pack/tmp_pack_1", "config.lock"):
        (repository / name).parent.mkdir(exist_ok=True)
        (repository / name).write_text("")
    (made.folder / "index.lock").write_text("")
    (made.work / "a.txt").write_text("changed\n")
    assert (await made.collect("the rest", AUTHOR)).files
    at(project, "commit", "-qam", "second")
    assert await made.store.fetch("main") == at(project, "rev-parse", "main")
    assert not list(repository.rglob("*.lock"))


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("", "blank"),
        ("project", "no absolute path"),
        ("ext::sh -c id", "blank"),
        ("ext::sh", "no absolute path"),
        ("ext://sh", "not supported"),
        ("file:///srv/x", "not supported"),
        ("git://example.org/x", "not supported"),
        ("https://ana:s3cret@example.org/x", "user or password"),
        ("https://token@example.org/x", "user or password"),
        ("ssh://-oProxyCommand=id/x", "not supported"),
        ("--upload-pack=id", "no absolute path"),
        ("https://example.org/\x1b[2J", "control"),
        ("https://[example.org/x", "no valid address"),
    ],
)
def test_an_address_that_is_not_fetched_is_refused(address: str, problem: str) -> None:
    with pytest.raises(InvalidInput, match=problem) as refused:
        Upstream.parse(address)
    assert refused.value.field == "repo"
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize("ref", ["-x", "a..b", "a b", "refs//x", "x.lock", "@{-1}", "a:b", "x/"])
def test_a_ref_that_is_no_name_is_refused(ref: str) -> None:
    with pytest.raises(InvalidInput, match="no name of a branch"):
        repositories.check_ref(ref)


def test_names_of_stores_are_readable_and_differ(daybook_home: Home) -> None:
    addresses = ["/srv/Shop", "https://example.org/a/shop.git", "git@example.org:b/shop.git"]
    names = {Store(Upstream.parse(each)).name.rpartition("-")[0] for each in addresses}
    assert names == {"shop"}
    assert len({Store(Upstream.parse(each)).name for each in addresses}) == len(addresses)


@pytest.mark.parametrize("part", ["submodule", "lfs"])
async def test_a_repository_with_parts_elsewhere_is_refused(part: str, project: Path) -> None:
    if part == "submodule":
        head = at(project, "rev-parse", "HEAD")
        at(project, "update-index", "--add", "--cacheinfo", f"160000,{head},vendor/x")
    else:
        (project / ".gitattributes").write_text("*.bin filter=lfs diff=lfs -text\n")
        at(project, "add", ".gitattributes")
    at(project, "commit", "-qm", "parts")
    words = {"submodule": r"has submodules \(vendor/x\)", "lfs": "has files at Git LFS"}
    with pytest.raises(InvalidInput, match=words[part]):
        await worktree(project)


async def test_a_shallow_store_has_a_part_of_the_history(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAYBOOK_CLONE_DEPTH", "1")
    for number in range(5):
        commit(project, a=f"{number}\n")
    made = await worktree(project)
    assert at(made.work, "rev-list", "--count", "HEAD") == "1"
    (made.work / "a.txt").write_text("better\n")
    at(made.work, "commit", "-qam", "mine")
    change = await made.collect("the rest", AUTHOR)
    assert [each.path for each in change.files] == ["a.txt"]
    assert at(made.work, "log", "--format=%s").splitlines()[0] == "mine"


@pytest.mark.slow
async def test_many_objects_are_packed_and_none_is_lost(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_PACK", [each.replace("2000", "1") for each in store._PACK])
    for run_id in ("run-1", "run-2"):
        made = await worktree(project, run_id)
        for number in range(300):
            (made.work / f"{run_id}-{number}.txt").write_text(f"{run_id} {number}\n")
        await made.collect("many", AUTHOR)
    await made.store.fetch("")
    assert list(made.store.objects.glob("pack/*.pack"))
    await git.run("fsck", "--strict", "--connectivity-only", repository=made.store.repository)
    assert at(made.work, "status", "--porcelain") != ""


async def test_a_pipe_with_a_name_that_git_reads_stops_nothing(project: Path) -> None:
    made = await worktree(project)
    (made.work / "inner").mkdir()
    os.mkfifo(made.work / "inner" / ".gitignore")
    (made.work / "inner" / "c.txt").write_text("three\n")
    change = await made.collect("pipe", AUTHOR)
    assert [each.path for each in change.files] == ["inner/c.txt"]
    assert change.notes == ("inner/.gitignore was no file",)


async def test_harmless_faults_of_old_commits_stop_no_fetch(project: Path) -> None:
    tree = at(project, "rev-parse", "HEAD^{tree}")
    old = f"tree {tree}\nauthor <ana>1 +051800\ncommitter ana <ana@example.org>1 +051800\n\nold\n"
    (project / "old").write_text(old)
    arguments = "hash-object", "-w", "--literally", "-t", "commit", "old"
    at(project, "update-ref", "refs/heads/old", at(project, *arguments))
    assert await Store(Upstream.parse(str(project))).fetch("old")


async def test_the_user_s_git_may_replace_https_by_ssh(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\necho \"$*\" > '{tmp_path}/called'\n")
    program.chmod(0o755)
    (tmp_path / ".gitconfig").write_text(
        f"[core]\nsshCommand = {program}\n"
        '[url "git@example.org:"]\ninsteadOf = https://example.org/\n'
    )
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(GitFailed):
        await Store(Upstream.parse("https://example.org/shop.git")).fetch("")
    assert "git-upload-pack 'shop.git'" in (tmp_path / "called").read_text()


async def test_an_empty_or_missing_repository_has_git_s_error(tmp_path: Path) -> None:
    at(tmp_path, "init", "-q", "empty")
    for name in ("empty", "missing"):
        with pytest.raises(GitFailed, match="git fetch: fatal: "):
            await Store(Upstream.parse(str(tmp_path / name))).fetch("")
