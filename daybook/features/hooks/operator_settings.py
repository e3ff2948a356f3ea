"""The operator's settings of hooks. Each process reads them, so this module imports little."""

from __future__ import annotations

from pydantic import BaseModel, Field


class HookSizes(BaseModel):
    """The setting of this machine for hooks."""

    max_hook_body: int = Field(
        default=1,
        ge=1,
        le=25,
        description="Maximum size of a request to a hook, in MiB. GitHub sends up to 25.",
    )
