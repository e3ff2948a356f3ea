"""The settings of the tools for files and commands."""

from __future__ import annotations

import os

from pydantic import BaseModel, Field, field_validator

from daybook import settings
from daybook.settings import CommaSeparated


class WorkSettings(BaseModel):
    """The settings of the tools for files and commands."""

    allow_shell: bool = Field(
        default=False,
        description="Whether model agents may have the tool `shell.run`. It runs commands in the "
        "work directories of jobs, with all rights of the user who runs Daybook.",
    )
    read_only_folders: CommaSeparated = Field(
        default="",
        description="Folders, comma-separated, that the tools `files` of model agents may read, "
        "besides the work directory of the job: absolute paths, or paths that begin with ~. A "
        "model names a folder by its last part: `@manual/a.md` is in `/srv/manual`.",
    )

    @field_validator("read_only_folders")
    @classmethod
    def _check_folders(cls, value: str) -> str:
        names = set[str]()
        for entry in settings.entries(value):
            if not entry.startswith(("/", "~")):
                raise ValueError(
                    f'"{entry}" is relative; use absolute paths, or paths that begin with ~'
                )
            name = os.path.basename(os.path.normpath(os.path.expanduser(entry)))
            if not name:
                raise ValueError(f'"{entry}" has no name; use a folder inside of it')
            if name in names:
                raise ValueError(f'two folders have the name "{name}"; leave one out')
            names.add(name)
        return value

    @property
    def folders_by_name(self) -> dict[str, str]:
        """Return the absolute paths of `read_only_folders`, by their last parts."""
        given = settings.entries(self.read_only_folders)
        paths = [os.path.normpath(os.path.expanduser(each)) for each in given]
        return {os.path.basename(each): each for each in paths}


def load() -> WorkSettings:
    """Return the settings of this process; raise the errors of `daybook.settings.load`."""
    return settings.part(WorkSettings)
