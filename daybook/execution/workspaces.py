"""Workspaces: a feature makes the folder of a run, and takes what the agents leave there.

::

    prepare_act ──► of ──► Workspace          between claim and begin, without an effect
                             └─ work ──► make the folder ─► ask the agents ─► take their work
                                                                ▲                  │
                                                                └── ask again ◄────┘

A job with a repository has a workspace (`Feature.workspace`); other jobs have a work directory.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from daybook import feature
from daybook.errors import InvalidInput
from daybook.ledger.states import Outcome, Usage
from daybook.policies.policy import Policy
from daybook.runs.claim_requests import Granted


@dataclass(frozen=True)
class WorkQuestion:
    """A request of a workspace to the agents.

    ``number`` is 0, and greater by 1 for each further question of the attempt. ``addition`` is the
    text after the job's prompt. ``seconds`` is the rest of the attempt's time, and ``spent`` is the
    usage of the questions before.
    """

    number: int
    addition: str
    seconds: float
    spent: Usage | None = None


Ask = Callable[[WorkQuestion], Awaitable[Outcome]]
"""Coroutine function that asks the agents of a run. It raises the errors of `fallback`."""


class Workspace(Protocol):
    """The folder of one run, in which its agents work."""

    @property
    def folder(self) -> str:
        """Return the real path of the folder, which exists while `work` calls ``ask``."""
        ...

    @property
    def readable(self) -> tuple[str, ...]:
        """Return further paths that programs in the folder need to read."""
        ...

    async def work(self, ask: Ask) -> Outcome:
        """Make the folder, ask the agents, and return the run's outcome with their work.

        A further attempt goes on in the folder of the attempt before. Raise the errors of ``ask``,
        and `DaybookError`.
        """
        ...


class WorkspaceKind(Protocol):
    """A class of workspaces (`Feature.workspace`)."""

    def __call__(self, granted: Granted, /) -> Workspace: ...

    def check(self, policy: Policy, /) -> list[str]:
        """Check a policy with a repository before its job is stored; return notes.

        Raise `InvalidInput`.
        """
        ...


def of(granted: Granted) -> Workspace | None:
    """Return the workspace of a run; None if its job has no repository.

    Raise `InvalidInput` if no feature makes worktrees of repositories.
    """
    return _kind()(granted) if granted.policy.repo else None


def check(policy: Policy) -> list[str]:
    """Call `WorkspaceKind.check` for a policy with a repository. Raise `InvalidInput`."""
    return _kind().check(policy) if policy.repo else []


def _kind() -> WorkspaceKind:
    for kind in feature.loaded("workspace"):
        found: WorkspaceKind = kind
        return found
    raise InvalidInput("repo", "this installation of Daybook has no worktrees", "leave it out")
