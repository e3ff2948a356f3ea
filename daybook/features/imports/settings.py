"""The settings of imports."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field

from daybook import settings
from daybook.markers import Marker


class ImportSettings(BaseModel):
    """The settings of imports."""

    anna_folder: Annotated[str, Marker(folder="changed", at_start=True)] = Field(
        default="",
        description="Folder of anna (another scheduler) that contains its `jobs.json`. The next "
        "`daybook up` imports the jobs, once, and renames the file. Empty: none.",
    )


def load() -> ImportSettings:
    """Return the settings of this process; raise the errors of `daybook.settings.load`."""
    return settings.part(ImportSettings)
