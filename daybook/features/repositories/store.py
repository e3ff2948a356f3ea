"""The store of a repository: a bare repository in the home, which only Daybook writes.

::

    the job's repository ──fetch──► <home>/repositories/NAME-DIGEST/store.git ──► a worktree per run

Neither the user's own repository nor an agent's work changes the store's configuration, so git may
read it (`git`). One command at a time writes to a store, because git's own locks make others fail;
they are released when the process ends, and what a killed one has left is removed by the next.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from slugify import slugify

from daybook.errors import InvalidInput
from daybook.features.repositories import access, git, settings
from daybook.features.repositories.access import FETCH_SECONDS
from daybook.features.repositories.git import Git, GitFailed, GitOutput
from daybook.features.repositories.locks import StillLocked, locked
from daybook.home import current_home
from daybook.policies.repositories import Upstream
from daybook.short_text import first_names

LOCK_SECONDS = 900.0
"""How long a command waits for the ones before it."""
MAX_LOOSE_OBJECTS = 2_000
"""Number of loose objects, as git estimates it, above which git packs a store."""

log = logging.getLogger(__name__)

_DIGEST_CHARACTERS = 12
_PACK = (
    *("-c", f"gc.auto={MAX_LOOSE_OBJECTS}", "-c", "gc.autoDetach=false"),
    *("gc", "--auto", "--no-prune", "--quiet"),
)
_GITLINK = "160000"


@dataclass(frozen=True)
class Store:
    """The store of ``source``, which is accessed with the token in ``secret``, if there is one."""

    source: Upstream
    secret: str = ""

    @property
    def name(self) -> str:
        """Return the name of the store's folder: readable, and different for each address."""
        address = self.source.address
        digest = hashlib.sha256(address.encode()).hexdigest()[:_DIGEST_CHARACTERS]
        last = address.rstrip("/").replace(":", "/").rpartition("/")[2]
        return f"{slugify(last.removesuffix('.git'))[:40] or 'repository'}-{digest}"

    @property
    def folder(self) -> Path:
        return current_home().path / "repositories" / self.name

    @property
    def repository(self) -> Path:
        return self.folder / "store.git"

    @property
    def objects(self) -> Path:
        return self.repository / "objects"

    async def fetch(self, ref: str) -> str:
        """Fetch ``ref``, or the default branch for "", and return the full hash of its commit.

        Raise `GitFailed`, and `InvalidInput` for a repository with parts that are not fetched.
        """
        digest = hashlib.sha256(ref.encode()).hexdigest()[:16]
        target, checked = f"refs/daybook/fetched/{digest}", self.folder / f"checked-{digest}"
        refspec, depth = f"+{ref or 'HEAD'}:{target}", settings.load().clone_depth
        async with self.writing() as run:
            await self.remote(*git.fetch(self.source.address, refspec, depth=depth), run=run)
            commit = await self.commit_of(target)
            if await asyncio.to_thread(_content, checked) == commit:
                return commit
            await self._check_complete(commit)
            # Nothing is pruned: worktrees borrow objects that no ref of the store reaches.
            try:
                await run(*_PACK, seconds=FETCH_SECONDS)
            except GitFailed as error:
                log.warning("%s: %s", self.repository, error, extra={"action": "store_unpacked"})
            await asyncio.to_thread(checked.write_text, commit)
            return commit

    async def remote(self, *arguments: str, run: Git = git.run) -> GitOutput:
        """Run git with access to the store's repository. Raise the errors of `access.run`."""
        return await access.run(self.source, self.secret, run, *arguments)

    async def default_branch(self) -> str:
        """Ask the repository for the name of its default branch. Raise `GitFailed`."""
        found = await self.remote(
            *("ls-remote", "--quiet", "--symref", "--upload-pack=git-upload-pack"),
            *("--", self.source.address, "HEAD"),
        )
        named = re.match(r"ref: refs/heads/(\S+)\tHEAD", found.text)
        if named is None:
            raise GitFailed(f"{self.source.address} names no default branch; set --ref")
        return named[1]

    async def contains(self, ancestor: str, commit: str) -> bool:
        """Return whether ``commit`` is ``ancestor`` or comes after it. Raise `GitFailed`."""
        found = await git.run(
            "rev-list", "--max-count=1", ancestor, f"^{commit}", repository=self.repository
        )
        return not found.text

    async def commit_of(self, revision: str) -> str:
        """Return the full hash of the commit that ``revision`` names. Raise `GitFailed`."""
        found = await git.run(
            "rev-parse",
            "--quiet",
            "--verify",
            "--end-of-options",
            f"{revision}^{{commit}}",
            repository=self.repository,
        )
        return found.text

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[Git]:
        """Hold the store's lock, and yield `git.run` for commands that write to the store.

        Create the store if it is missing. A command keeps the lock if this process is killed. Raise
        `GitFailed` if others hold the lock for longer than `LOCK_SECONDS`.
        """
        try:
            async with locked(self.folder / "lock", LOCK_SECONDS) as descriptor:
                if self.repository.exists():
                    await asyncio.to_thread(git.remove_locks, self.repository)
                else:
                    await self._create(descriptor)
                yield partial(git.run, repository=self.repository, pass_fds=[descriptor])
        except StillLocked:
            problem = f"{self.source.address}: other runs use it for {LOCK_SECONDS:g} s"
            raise GitFailed(problem) from None

    async def _create(self, lock: int) -> None:
        made = self.folder / "new.git"
        await asyncio.to_thread(shutil.rmtree, made, ignore_errors=True)
        await git.run("init", "--quiet", "--bare", "--template=", "--", str(made), pass_fds=[lock])
        made.rename(self.repository)

    async def _check_complete(self, commit: str) -> None:
        """Raise `InvalidInput` if files of ``commit`` are in other repositories or at LFS."""
        tree = await git.run(
            "ls-tree", "-r", "-z", "--full-tree", commit, repository=self.repository
        )
        entries = [each.partition("\t") for each in tree.fields()]
        modules = [git.printable(path) for head, _, path in entries if head.startswith(_GITLINK)]
        hint = "set --work-dir to a folder in which you have checked it out yourself"
        if modules:
            problem = f"has submodules ({first_names(modules)}), which are not checked out"
            raise InvalidInput("repo", problem, hint)
        try:
            found = await git.run(
                *("grep", "--no-color", "--files-with-matches", "--null", "--extended-regexp"),
                *(r"^[^#]*\bfilter=lfs\b", commit, "--", ":(glob)**/.gitattributes"),
                repository=self.repository,
            )
        except GitFailed as error:
            if error.status != 1:  # it has found none
                raise
            return
        path = git.printable(found.fields()[0].removeprefix(f"{commit}:"))
        raise InvalidInput(
            "repo", f"has files at Git LFS ({path}), which are not checked out", hint
        )


def _content(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""
