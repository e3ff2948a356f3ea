"""The store of a repository: a bare repository in the home, which only Daybook writes.

::

    the job's repository ──fetch──► <home>/repositories/NAME-DIGEST/store.git ──► a checkout per run

Neither the user's own repository nor an agent's work changes the store's configuration, so git may
read it (`git`). One command at a time writes to a store, because git's own locks make others fail;
they are released when the process ends, and what a killed one has left is removed by the next.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from slugify import slugify

from daybook.errors import InvalidInput
from daybook.features.repositories import git
from daybook.features.repositories.git import GitFailed, GitOutput
from daybook.home import current_home
from daybook.short_text import first_names, one_line

Git = Callable[..., Awaitable[GitOutput]]
"""The function `git.run` for one repository."""

FETCH_SECONDS = 600.0
LOCK_SECONDS = 900.0
"""How long a command waits for the ones before it."""
MAX_ADDRESS_CHARACTERS = 2_000
MAX_REF_CHARACTERS = 200

_POLL_SECONDS = 0.1
_DIGEST_CHARACTERS = 12
_PROTOCOLS = {"https": "https", "http": "http", "ssh": "ssh"}
_SSH = re.compile(r"[\w.-]+@[\w.-]+:(?!//)\S+\Z")
_REF = re.compile(r"[A-Za-z0-9_][\w./+-]*\Z", re.ASCII)
_GITLINK = "160000"


@dataclass(frozen=True)
class Upstream:
    """A repository as a job names it: the path of a folder on this machine, or an address.

    ``protocol`` is the one of git by which it is fetched.
    """

    address: str
    protocol: str

    @classmethod
    def parse(cls, text: str) -> Upstream:
        """Return the repository. Raise `InvalidInput`, which names `repo`."""
        address = text.strip()
        problem, hint = "", "write the path of a folder, https://… or git@host:owner/name"
        if not address or len(address) > MAX_ADDRESS_CHARACTERS:
            problem = "is blank or too long"
        elif not address.isprintable() or any(each.isspace() for each in address):
            problem = "contains a blank or a control character"
        if problem:
            raise InvalidInput("repo", problem, hint)
        if _SSH.match(address) and not address.startswith("-"):
            return cls(address, "ssh")
        if "://" not in address:
            path = os.path.expanduser(address)
            if not os.path.isabs(path):
                raise InvalidInput("repo", f"{one_line(address, 200)} is no absolute path", hint)
            return cls(os.path.normpath(path), "file")
        try:
            parts = urlsplit(address)
        except ValueError:
            raise InvalidInput("repo", "is no valid address", hint) from None
        if parts.scheme not in _PROTOCOLS or not parts.hostname or parts.hostname[0] == "-":
            raise InvalidInput("repo", f"{one_line(parts.scheme, 40)}:// is not supported", hint)
        if parts.password or (parts.username and parts.scheme != "ssh"):
            problem = "has a user or password in the address"
            hint = "leave it out; git asks the user's own credential helper"
            raise InvalidInput("repo", problem, hint)
        return cls(address, _PROTOCOLS[parts.scheme])

    @property
    def protocols(self) -> set[str]:
        """Return the protocols by which git may fetch and push.

        The user's own `url.*.insteadOf` may replace HTTPS by SSH, or SSH by HTTPS.
        """
        return {"file"} if self.protocol == "file" else {self.protocol, "https", "ssh"}

    @property
    def name(self) -> str:
        """Return the name of the store's folder: readable, and different for each address."""
        digest = hashlib.sha256(self.address.encode()).hexdigest()[:_DIGEST_CHARACTERS]
        last = self.address.rstrip("/").replace(":", "/").rpartition("/")[2]
        return f"{slugify(last.removesuffix('.git'))[:40] or 'repository'}-{digest}"


def check_ref(text: str) -> str:
    """Return the name of a branch or tag, or "" for the default branch. Raise `InvalidInput`."""
    ref = text.strip()
    is_wrong = ".." in ref or "//" in ref or ref.endswith(("/", ".", ".lock")) or "/." in ref
    if ref and (len(ref) > MAX_REF_CHARACTERS or not _REF.match(ref) or is_wrong):
        raise InvalidInput("ref", f'"{one_line(ref, 200)}" is no name of a branch', "write main")
    return ref


@dataclass(frozen=True)
class Store:
    """The store of ``source``."""

    source: Upstream

    @property
    def folder(self) -> Path:
        return current_home().path / "repositories" / self.source.name

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
        target = f"refs/daybook/fetched/{hashlib.sha256(ref.encode()).hexdigest()[:16]}"
        is_local = self.source.protocol == "file"
        async with self.writing() as run:
            await run(
                *git.FETCH,
                self.source.address,
                f"+{ref or 'HEAD'}:{target}",
                protocols=self.source.protocols,
                as_user=not is_local,
                seconds=FETCH_SECONDS,
            )
            commit = await self.commit_of(target)
            await self._check_complete(commit)
            return commit

    async def default_branch(self) -> str:
        """Ask the repository for the name of its default branch. Raise `GitFailed`."""
        found = await git.run(
            "ls-remote",
            "--quiet",
            "--symref",
            "--upload-pack=git-upload-pack",
            "--",
            self.source.address,
            "HEAD",
            protocols=self.source.protocols,
            as_user=self.source.protocol != "file",
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
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                async with asyncio.timeout(LOCK_SECONDS):
                    while not _locks(descriptor):  # noqa: ASYNC110 - another process unlocks
                        await asyncio.sleep(_POLL_SECONDS)
            except TimeoutError:
                problem = f"{self.source.address}: other runs use it for {LOCK_SECONDS:g} s"
                raise GitFailed(problem) from None
            if self.repository.exists():
                await asyncio.to_thread(git.remove_locks, self.repository)
            else:
                await self._create(descriptor)
            yield partial(git.run, repository=self.repository, pass_fds=[descriptor])
        finally:
            os.close(descriptor)

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
        for head, _, path in entries:
            if path.rpartition("/")[2] == ".gitattributes":
                content = await git.run(
                    "cat-file", "blob", head.split()[2], repository=self.repository
                )
                if re.search(rb"^[^#\n]*\bfilter=lfs\b", content.content, re.MULTILINE):
                    problem = (
                        f"has files at Git LFS ({git.printable(path)}), which are not checked out"
                    )
                    raise InvalidInput("repo", problem, hint)


def _locks(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
