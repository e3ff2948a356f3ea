"""Work on a repository: which one a run of an agent works in, and what happens with its change."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from daybook.errors import InvalidInput
from daybook.markers import Marker
from daybook.short_text import one_line
from daybook.validation import raising_pydantic_error

Land = Literal["review", "auto", "branch", "pull-request"]
"""What happens with a change: a person decides, it lands if it is verified, or it is a branch, for
which a forge may have a pull request."""

ForgeKind = Literal["", "github", "gitlab", "gitea"]
"""Kind of the forge that has the repository; "" for a known host."""

NEED_REPO = (
    *("ref", "setup", "verify", "repairs", "land", "repo_secret", "forge", "one_pull_request"),
    *("max_changed_files", "max_changed_lines"),
)
"""Fields of a policy that apply only to a job with a repository."""

MAX_ADDRESS_CHARACTERS = 2_000
MAX_REF_CHARACTERS = 200
MAX_REPAIRS = 5

_PROTOCOLS = {"https": "https", "http": "http", "ssh": "ssh"}
_SSH = re.compile(r"[\w.-]+@[\w.-]+:(?!//)\S+\Z")
_SECRET_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?\Z")
_REF = re.compile(r"[A-Za-z0-9_][\w./+-]*\Z", re.ASCII)


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


def check_ref(text: str) -> str:
    """Return the name of a branch or tag, or "" for the default branch. Raise `InvalidInput`."""
    ref = text.strip()
    is_wrong = ".." in ref or "//" in ref or ref.endswith(("/", ".", ".lock")) or "/." in ref
    if ref and (len(ref) > MAX_REF_CHARACTERS or not _REF.match(ref) or is_wrong):
        raise InvalidInput("ref", f'"{one_line(ref, 200)}" is no name of a branch', "write main")
    return ref


def _repo(text: str) -> str:
    if text.strip():
        with raising_pydantic_error():
            Upstream.parse(text)
    return text.strip()


def _ref(text: str) -> str:
    with raising_pydantic_error():
        return check_ref(text)


def _repo_secret(name: str) -> str:
    name = name.strip()
    if name and not _SECRET_NAME.match(name):
        with raising_pydantic_error():
            problem = f'"{one_line(name, 40)}" is no name of a secret'
            raise InvalidInput("repo_secret", problem, "write it as `daybook secrets list` does")
    return name


def _setup(command: tuple[str, ...]) -> tuple[str, ...]:
    return _command(command, "setup")


def _verify(command: tuple[str, ...]) -> tuple[str, ...]:
    return _command(command, "verify")


def _command(command: tuple[str, ...], field: str) -> tuple[str, ...]:
    if command and not command[0].strip():
        with raising_pydantic_error():
            raise InvalidInput(field, "has no program", "start it with the program's name")
    return command


_MARKER = Marker(for_agents="operator only", is_checked=True, is_continued=True)
_COMMAND = Marker(syntax="command", for_agents="operator only", is_continued=True)
_CONTINUED = Marker(is_continued=True)

Repo = Annotated[
    str,
    AfterValidator(_repo),
    _MARKER,
    Field(
        title="Repository",
        description="Git repository in which the agent works, each run in a new worktree: the path "
        "of a folder on this machine, https://… or git@host:owner/name. Only the operator may set "
        "it; a folder must be within DAYBOOK_ALLOWED_WORK_DIRS.",
    ),
]
Ref = Annotated[
    str,
    AfterValidator(_ref),
    _CONTINUED,
    Field(
        title="Branch",
        description="Branch of the repository from which a run begins, and which gets its change. "
        "Empty: the default branch.",
    ),
]
Setup = Annotated[
    tuple[str, ...],
    AfterValidator(_setup),
    _COMMAND,
    Field(
        title="Setup",
        description="Program with arguments that prepares a new worktree before the agent, such "
        "as: uv sync. Only the operator may set it.",
    ),
]
Verify = Annotated[
    tuple[str, ...],
    AfterValidator(_verify),
    _COMMAND,
    Field(
        title="Verify",
        description="Program with arguments that tests the agent's change, such as: make test. "
        "Any exit code but 0 means that the change is wrong. Only the operator may set it.",
    ),
]
Repairs = Annotated[
    int,
    _CONTINUED,
    Field(
        title="Repairs",
        ge=0,
        le=MAX_REPAIRS,
        description="How often the agent gets the output of a failed verification, to repair its "
        "change. Then the run fails.",
    ),
]
LandChoice = Annotated[
    Land,
    _CONTINUED,
    Field(
        title="Land",
        description="What happens with a change: `review` waits for a person, `auto` adds it to "
        "the branch if it is verified, `branch` adds a branch of its own to the repository, "
        "`pull-request` also opens a pull request for it.",
    ),
]
RepoSecret = Annotated[
    str,
    AfterValidator(_repo_secret),
    Marker(names="secret", for_agents="operator only", is_checked=True, is_continued=True),
    Field(
        title="Secret of the repository",
        description="Name of the secret with a token for the repository at https://…, with which "
        "Daybook fetches, pushes and opens pull requests. Empty: the credentials that git has.",
    ),
]
ForgeChoice = Annotated[
    ForgeKind,
    _CONTINUED,
    Field(
        title="Forge",
        description="Kind of the repository's host, for pull requests at other hosts than "
        "github.com, gitlab.com, codeberg.org and gitea.com.",
    ),
]
OnePullRequest = Annotated[
    bool,
    _CONTINUED,
    Field(
        title="One pull request",
        description="All runs of the job use the same branch and pull request, so a new change "
        "replaces the one before. Off: each change has its own.",
    ),
]
MaxChangedFiles = Annotated[
    int,
    _CONTINUED,
    Field(
        title="Max changed files",
        ge=0,
        description="Number of changed files above which a change with land auto waits for a "
        "person. 0: no limit.",
    ),
]
MaxChangedLines = Annotated[
    int,
    _CONTINUED,
    Field(
        title="Max changed lines",
        ge=0,
        description="Number of added and removed lines above which a change with land auto waits "
        "for a person. 0: no limit.",
    ),
]
