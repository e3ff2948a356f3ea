"""The operator's settings of hooks. Each process reads them, so this module imports little."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field

from daybook.markers import Marker


class HookSizes(BaseModel):
    """The setting of this machine for hooks."""

    max_hook_body: Annotated[int, Marker(at_start=True)] = Field(
        default=1,
        ge=1,
        le=25,
        description="Maximum size of a request to a hook, in MiB. GitHub sends up to 25.",
    )
