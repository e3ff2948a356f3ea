"""Choice of the launcher for this machine. The ports are in `daybook.worker.base`."""

from __future__ import annotations

import logging
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from daybook.worker.base import LaunchedProcess, Launcher
from daybook.worker.nursery import DEFAULT_PROGRAM
from daybook.worker.spawn import SpawnLauncher
from daybook.worker.zygote import ForkLauncher

__all__ = ["LaunchedProcess", "Launcher", "open_launcher"]

log = logging.getLogger(__name__)


@asynccontextmanager
async def open_launcher(
    folder: Path,
    *,
    environment: Mapping[str, str] | None = None,
    program: str = DEFAULT_PROGRAM,
    platform: str = sys.platform,
) -> AsyncIterator[Launcher]:
    """Open the launcher for this machine; see `nursery.ProcessLauncher` for the arguments.

    Children are forked only on Linux, and only if the parent has a single thread after its imports.
    On other systems, the system's own libraries may run threads that cannot be counted.
    """
    async with AsyncExitStack() as stack:
        options: dict[str, Any] = {"environment": environment, "program": program}
        why, launcher = f"the platform is {platform}", None
        if platform == "linux":
            try:
                launcher = await stack.enter_async_context(ForkLauncher(folder, **options))
                why = f"{launcher.threads} threads run after the imports"
            except OSError as error:
                why = f"nothing to fork from: {error}"
        if launcher is not None and launcher.threads == 1:
            log.info("forked children", extra={"action": "children_forked"})
            yield launcher
            return
        await stack.aclose()
        log.warning("spawned children: %s", why, extra={"action": "children_spawned"})
        yield await stack.enter_async_context(SpawnLauncher(folder, **options))
