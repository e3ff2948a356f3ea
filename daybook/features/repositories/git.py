"""Git commands of Daybook, which run no program that a repository names.

Git runs programs that a repository's configuration and hooks name (`core.fsmonitor`, filters,
external diffs, `core.sshCommand`). So each command here reads a repository whose configuration
Daybook has written, and no configuration of the user or the system. A file `.gitattributes` only
names such programs; without a configuration, git does not know them.

A repository that an agent has changed is read only by `git fetch`, which git's own documentation
(gitsecurityboundary, git-upload-pack) calls safe for a repository that is not trusted.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from daybook.agents import process
from daybook.errors import DaybookError
from daybook.processes import environment
from daybook.processes.pipes import HeadPipe
from daybook.short_text import one_line

MAX_OUTPUT_BYTES = 16 * 2**20
"""Maximum length of a command's output; the rest is left out."""
MAX_ERROR_CHARACTERS = 500
TIMEOUT_SECONDS = 300.0

_OLD_FAULTS = (
    "badDate",
    "badEmail",
    "badName",
    "badTimezone",
    "missingEmail",
    "missingNameBeforeEmail",
    "missingSpaceBeforeDate",
    "missingSpaceBeforeEmail",
    "zeroPaddedDate",
    "zeroPaddedFilemode",
)
"""Harmless faults of objects by old programs, in the history of many repositories."""
_SETTINGS = {
    "advice.detachedHead": "false",
    "checkout.workers": "0",  # one for each core
    "commit.gpgSign": "false",
    "core.alternateRefsCommand": "",
    "core.askPass": "true",  # the program, which answers nothing
    "core.attributesFile": "/dev/null",
    "core.bigFileThreshold": "32m",  # a diff needs many times the memory of a file
    "core.excludesFile": "/dev/null",
    "core.fsmonitor": "false",
    "core.hooksPath": "/dev/null",
    "core.quotePath": "false",
    "fetch.fsckObjects": "true",
    "fetch.recurseSubmodules": "false",
    "fetch.writeCommitGraph": "false",
    "gc.auto": "0",
    "init.defaultBranch": "main",
    "maintenance.auto": "false",
    "protocol.allow": "never",
    "submodule.recurse": "false",
} | {f"fetch.fsck.{each}": "warn" for each in _OLD_FAULTS}
"""Settings of each command. Most are also the values of a repository without a configuration."""

_VARIABLES = {
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_TERMINAL_PROMPT": "0",
    "LC_ALL": "C",
}
_NO_CONFIGURATION = {
    "HOME": "/nonexistent",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_NOSYSTEM": "1",
}
_USER_VARIABLES = (
    *("HOME", "XDG_CONFIG_HOME", "USER", "LOGNAME", "SSH_AUTH_SOCK"),
    *("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM", "GIT_SSH_COMMAND"),
    *("GIT_SSL_CAINFO", "GIT_SSL_CAPATH"),
    *("http_proxy", "https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY"),
)
"""Variables with which git finds the user's keys, credential helpers and proxies."""


class GitFailed(DaybookError):
    """The error that a git command failed, or was not done in time."""

    code = "git_failed"

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        """Exit code of the command, None if it was not done or not started."""


@dataclass(frozen=True)
class GitOutput:
    """Standard output of a command; ``is_cut`` if it was longer than its limit."""

    content: bytes
    is_cut: bool = False

    @property
    def text(self) -> str:
        return self.content.decode(errors="replace").strip()

    @property
    def path(self) -> Path:
        return Path(os.fsdecode(self.content.removesuffix(b"\n")))

    def fields(self) -> list[str]:
        """Return the parts of an output that NUL separates (the option `-z`).

        Raise `GitFailed` if parts were left out.
        """
        if self.is_cut:
            raise GitFailed(f"its list of files is longer than {len(self.content):,} bytes")
        return self.content.decode(errors="surrogateescape").split("\0")[:-1]


Git = Callable[..., Awaitable[GitOutput]]
"""The function `run`, perhaps for one repository."""


async def run(
    *arguments: str,
    repository: Path | None = None,
    cwd: Path | str = "/",
    protocols: Collection[str] = (),
    as_user: bool = False,
    variables: Mapping[str, str] = {},
    stdin: bytes | None = None,
    most: int = MAX_OUTPUT_BYTES,
    seconds: float = TIMEOUT_SECONDS,
    pass_fds: Sequence[int] = (),
) -> GitOutput:
    """Run git in ``repository``, a git directory, without a work tree; ``cwd`` need not be in it.

    ``protocols`` are those by which the command may fetch and push. ``as_user`` adds the
    configuration of the user and the system, and the user's keys, for a repository elsewhere.
    ``variables`` are added to the environment, such as `GIT_WORK_TREE`. The command inherits the
    files ``pass_fds``. Raise `GitFailed` with git's error.
    """
    settings = [f"{name}={value}" for name, value in _SETTINGS.items()]
    settings += [f"protocol.{each}.allow=always" for each in protocols]
    given = [f"--git-dir={repository}"] if repository else []
    names = ("PATH", *(_USER_VARIABLES if as_user else ()))
    user = {} if as_user else _NO_CONFIGURATION
    try:
        done = await process.run(
            ["git", *given, *(part for each in settings for part in ("-c", each)), *arguments],
            folder=str(cwd),
            environment=environment.select(names) | user | _VARIABLES | dict(variables),
            stdin=stdin,
            seconds=seconds,
            output=HeadPipe(most),
            pass_fds=pass_fds,
        )
    except FileNotFoundError as error:
        missing = "git is not installed; install it"
        raise GitFailed(missing if error.filename in ("git", b"git") else str(error)) from None
    except OSError as error:
        raise GitFailed(f"git cannot be started: {error}") from None
    what = next((each for each in arguments if not each.startswith("-")), "")
    if done.timed_out:
        raise GitFailed(f"git {what} was not done within {seconds:g} s")
    if done.code:
        why = one_line(done.errors.decode(errors="replace"), MAX_ERROR_CHARACTERS)
        raise GitFailed(f"git {what}: {why or f'it ended with {done.code}'}", done.code)
    return GitOutput(done.output, is_cut=bool(done.dropped))


def fetch(address: str, refspec: str, *, depth: int = 0) -> tuple[str, ...]:
    """Return the arguments that fetch ``refspec``, with ``depth`` commits of its history if set."""
    limited = (f"--depth={depth}",) if depth else ()
    quiet = ("--quiet", "--no-tags", "--no-write-fetch-head", "--upload-pack=git-upload-pack")
    return ("fetch", *quiet, *limited, "--", address, refspec)


def printable(path: str) -> str:
    """Return a path of `GitOutput.fields` on one line, in characters that can be stored."""
    return path if path.isprintable() else ascii(path)[1:-1]


def is_lock(name: str) -> bool:
    """Return whether a killed command has left a file of this name, which stops later ones."""
    return name.endswith(".lock") or name.startswith("tmp_") or name == "packed-refs.new"


def remove_locks(repository: Path) -> None:
    """Remove the files that killed commands have left. No command may run in the repository."""
    for folder, _, names in os.walk(repository):
        for name in filter(is_lock, names):
            Path(folder, name).unlink(missing_ok=True)
