"""The folder of a run in which its agent works on a repository, and the change that it leaves.

::

    <home>/worktrees/RUN/work      the files, with a repository of the agent's own in `.git`
                        /index     Daybook's index of these files

`create` makes the folder before the first attempt, and a further attempt goes on in it. `collect`
reads the change afterwards, into the store's branch of the run: the agent's commits, and a commit
of what it has not committed.

The agent's repository is not a worktree of git, which shares configuration, hooks, stash and locks
with the repository that it belongs to. It borrows the store's objects, so its creation copies no
history.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from daybook.features.repositories import git
from daybook.features.repositories.git import Git, GitFailed
from daybook.features.repositories.patches import CUT_MARK
from daybook.features.repositories.store import Store
from daybook.home import current_home
from daybook.processes import environment
from daybook.short_text import one_line

MAX_PATCH_BYTES = 2 * 2**20
"""Maximum length of a patch that is kept."""
COLLECT_SECONDS = 300.0
_GITLINK = "160000"
_READ_BY_GIT = frozenset({".gitattributes", ".gitignore"})
_AGENT_REF = "HEAD"


@dataclass(frozen=True)
class ChangedFile:
    """A file of a change. The numbers of lines are None for a binary file."""

    path: str
    insertions: int | None
    deletions: int | None


@dataclass(frozen=True)
class Change:
    """What a run has changed: the commits from ``base`` to ``head``, which are equal without one.

    ``patch`` is a unified diff, cut at `MAX_PATCH_BYTES`. ``notes`` name what is not part of it.
    """

    base: str
    head: str
    branch: str
    files: tuple[ChangedFile, ...] = ()
    patch: str = ""
    notes: tuple[str, ...] = ()

    @property
    def insertions(self) -> int:
        return sum(each.insertions or 0 for each in self.files)

    @property
    def deletions(self) -> int:
        return sum(each.deletions or 0 for each in self.files)


@dataclass(frozen=True)
class Author:
    """The author of a commit, and its time."""

    name: str
    email: str
    at: datetime

    def variables(self) -> dict[str, str]:
        """Return the variables from which git takes author and committer."""
        date = f"@{int(self.at.timestamp())} +0000"
        return {
            f"GIT_{role}_{part}": value
            for role in ("AUTHOR", "COMMITTER")
            for part, value in (("NAME", self.name), ("EMAIL", self.email), ("DATE", date))
        }


@dataclass(frozen=True)
class Worktree:
    """The folder of the run ``run_id``, which works on the branch ``branch`` from ``base``."""

    store: Store
    run_id: str
    base: str
    branch: str

    @property
    def folder(self) -> Path:
        return folder_of(self.run_id)

    @property
    def work(self) -> Path:
        return self.folder / "work"

    async def create(self, author: Author, start: str = "") -> None:
        """Create the folder with the files of ``start``, a commit after the base, or of the base.

        Do nothing if an earlier attempt has created it. Raise `GitFailed`.
        """
        if await asyncio.to_thread(self.folder.exists):
            return
        made = self.folder.with_name(f"{self.folder.name}.new")
        await asyncio.to_thread(remove_folder, made)
        await check_out(made / "work", self.store, start or self.base, self.branch, author)
        made.rename(self.folder)

    def remove_locks(self) -> None:
        """Remove the files that killed commands of the agent have left in its repository."""
        repository = self.work / ".git"
        if not self.work.is_symlink() and not repository.is_symlink():
            git.remove_locks(repository)

    async def collect(self, message: str, author: Author) -> Change:
        """Commit what is not committed, set the store's branch, and return the change.

        A second call for the same files returns the same commits. Raise `GitFailed`.
        """
        async with self.store.writing() as run:
            head, notes = await self._agents_head(run)
            tree, left_out = await self._tree(run, head)
            notes += left_out
            if not await self._is_line_from_base(run, head):
                head = self.base
                notes += ("the agent rewrote or merged commits, so its change is one commit",)
            if tree != (await run("rev-parse", f"{head}^{{tree}}")).text:
                head = (
                    await run(
                        "commit-tree",
                        "-p",
                        head,
                        "-m",
                        message,
                        tree,
                        variables=author.variables(),
                    )
                ).text
            if head == self.base:
                return Change(self.base, head, self.branch, notes=notes)
            await run("update-ref", f"refs/heads/{self.branch}", head)
        return Change(
            self.base, head, self.branch, await self._files(head), await self._patch(head), notes
        )

    async def restore(self) -> None:
        """Make the files equal to those of the last `collect`, apart from ignored ones.

        So what a verification leaves does not become part of the change. Raise `GitFailed`.
        """
        async with self.store.writing() as run:
            variables = self._index()
            await run("checkout-index", "--all", "--force", "--quiet", variables=variables)
            await run("clean", "--force", "-d", "--quiet", variables=variables, cwd=self.work)

    def _index(self) -> dict[str, str]:
        """Return the variables with which git compares the files with Daybook's index of them."""
        return {
            "GIT_INDEX_FILE": str(self.folder / "index"),
            "GIT_WORK_TREE": str(self.work),
        }

    async def _agents_head(self, run: Git) -> tuple[str, tuple[str, ...]]:
        """Fetch the agent's commits; return the last one, or the base with a note."""
        target = f"refs/daybook/runs/{self.run_id}"
        try:
            await run(
                *git.fetch(str(self.work / ".git"), f"+{_AGENT_REF}:{target}"),
                protocols=["file"],
                seconds=COLLECT_SECONDS,
            )
            return await self.store.commit_of(target), ()
        except GitFailed as error:
            return self.base, (f"the agent's own commits cannot be read: {error}",)

    async def _is_line_from_base(self, run: Git, head: str) -> bool:
        """Return whether a rebase of the commits from the base to ``head`` keeps all changes."""
        if not await self.store.contains(self.base, head):
            return False
        merges = await run("rev-list", "--merges", "--max-count=1", head, f"^{self.base}")
        return not merges.text

    async def _tree(self, run: Git, head: str) -> tuple[str, tuple[str, ...]]:
        """Return the hash of the tree of all files that are not ignored, with notes."""
        # The lock that a killed command has left.
        for name in ("index", "index.lock"):
            await asyncio.to_thread((self.folder / name).unlink, missing_ok=True)
        variables = self._index()
        await run("read-tree", head, variables=variables)
        notes = await asyncio.to_thread(_without_pipes, self.work)
        try:
            await run(
                f"--work-tree={self.work}",
                "add",
                "--all",
                "--no-warn-embedded-repo",
                "--ignore-errors",
                "--",
                str(self.work),
                variables=variables,
                seconds=COLLECT_SECONDS,
            )
        except GitFailed as error:
            if error.status != 1:
                raise
            notes += (f"some files are left out: {error}",)  # it has added the others
        entries = (await run("ls-files", "--stage", "-z", variables=variables)).fields()
        inner = [each.partition("\t")[2] for each in entries if each.startswith(_GITLINK)]
        if inner:
            removed = "\0".join(inner).encode(errors="surrogateescape") + b"\0"
            arguments = "update-index", "--force-remove", "-z", "--stdin"
            await run(*arguments, variables=variables, stdin=removed)
        notes += tuple(
            f"{git.printable(each)} is a repository of its own, and left out" for each in inner
        )
        return (await run("write-tree", variables=variables)).text, notes

    async def _files(self, head: str) -> tuple[ChangedFile, ...]:
        found = await self._compare(head, "--numstat", "-z")
        files = []
        for entry in found.fields():
            added, removed, path = entry.split("\t", 2)
            numbers = [None if each == "-" else int(each) for each in (added, removed)]
            files.append(ChangedFile(git.printable(path), *numbers))
        return tuple(files)

    async def _patch(self, head: str) -> str:
        found = await self._compare(head, "--patch", "--find-renames", most=MAX_PATCH_BYTES)
        text = found.content.decode(errors="replace")
        return f"{text}\n{CUT_MARK}\n" if found.is_cut else text

    async def _compare(
        self, head: str, *options: str, most: int = git.MAX_OUTPUT_BYTES
    ) -> git.GitOutput:
        return await git.run(
            "diff-tree",
            "-r",
            "--no-ext-diff",
            "--no-textconv",
            "--no-color",
            "--no-renames",
            *options,
            self.base,
            head,
            repository=self.store.repository,
            most=most,
        )


def _without_pipes(work: Path) -> tuple[str, ...]:
    """Remove pipes and the like with names that git would read, and wait for; return notes."""
    notes = []
    for folder, _, names in os.walk(work):
        for name in _READ_BY_GIT.intersection(names):
            path = os.path.join(folder, name)
            mode = os.lstat(path).st_mode
            if not stat.S_ISREG(mode) and not stat.S_ISLNK(mode):
                os.unlink(path)
                notes.append(f"{git.printable(os.path.relpath(path, work))} was no file")
    return tuple(notes)


async def check_out(work: Path, store: Store, commit: str, branch: str, author: Author) -> None:
    """Create ``work`` with the files of ``commit`` and a repository on ``branch``.

    The repository borrows the objects of the store. ``author`` is who commits in it. Raise
    `GitFailed`.
    """
    repository = work / ".git"
    branch_option = f"--initial-branch={branch}"
    await git.run("init", "--quiet", "--template=", branch_option, "--", str(work))
    await asyncio.to_thread(_borrow, repository, store, author)
    await git.run(
        *("reset", "--quiet", "--hard", commit),
        repository=repository,
        variables={"GIT_WORK_TREE": str(work)},
    )


def _borrow(repository: Path, store: Store, author: Author) -> None:
    with (repository / "config").open("a") as config:
        user = f"name = {_quoted(author.name)}\n\temail = {_quoted(author.email)}"
        config.write(f"[user]\n\t{user}\n[gc]\n\tauto = 0\n")
    alternates = repository / "objects" / "info" / "alternates"
    alternates.parent.mkdir(exist_ok=True)
    alternates.write_text(f"{store.objects}\n")
    with suppress(FileNotFoundError):  # where the history of a shallow store ends
        shutil.copyfile(store.repository / "shallow", repository / "shallow")


def _quoted(value: str) -> str:
    """Return a value in the syntax of git's configuration files."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def folder_of(run_id: str) -> Path:
    """Return the folder of a run, which need not exist."""
    return current_home().path / "worktrees" / run_id


def remove_folder(folder: Path) -> None:
    """Remove a folder with all that an agent may have put there; follow no link. Raise OSError."""
    # Not `shutil.rmtree`: it fails in folders that are nested too deeply.
    remove = "rm", "-rf", "--", str(folder)
    if _fails(*remove):
        _fails("chmod", "-R", "u+rwX", "--", str(folder))
        if why := _fails(*remove):
            raise OSError(why)


def _fails(*command: str) -> str:
    """Run a program of the system; return its error, or ""."""
    done = subprocess.run(
        command,
        env=environment.select(("PATH",)),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    why = one_line(done.stderr.decode(errors="replace"), git.MAX_ERROR_CHARACTERS)
    return (why or f"{command[0]} has failed") if done.returncode else ""
