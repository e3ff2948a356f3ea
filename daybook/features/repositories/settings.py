"""The settings of worktrees."""

from __future__ import annotations

from pydantic import BaseModel, Field

from daybook import settings


class RepositorySettings(BaseModel):
    """The settings of worktrees."""

    clone_depth: int = Field(
        default=0,
        ge=0,
        le=1_000_000,
        description="Number of commits of a repository's history that Daybook fetches, for large "
        "repositories. 0: all.",
    )
    keep_worktrees_days: int = Field(
        default=14,
        ge=1,
        le=3650,
        description="Days after which the worktree of a run is removed, if a person may still need "
        "it: its change waits, or the run failed. Other worktrees are removed at once. The commits "
        "of a change stay.",
    )


def load() -> RepositorySettings:
    """Return the settings of this process; raise the errors of `daybook.settings.load`."""
    return settings.part(RepositorySettings)
